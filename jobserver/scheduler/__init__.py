"""The scheduler process: recurring entries, and the housekeeping that some process must do."""

from jobserver.scheduler.scheduler import Scheduler

__all__ = ["Scheduler"]
