"""What can be done about user syncs: schedule, trigger, see how they stand, pause, clean up."""

import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from jobs.queues import HOUR, USER_SYNC
from jobs.records import db
from jobs.users.jobs import USER_SYNC_SCHEDULE, sync
from jobs.users.sync import SyncType
from jobserver import Job, current, enqueue
from jobserver.errors import ScheduleNotFound

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Repeatable:
    """A recurring sync, each `seconds` or by `cron`; next at a Unix time, None: it is paused."""

    id: str
    seconds: float | None
    cron: str | None
    next: float | None


@dataclass(frozen=True, kw_only=True)
class SchedulerStatus:
    """The recurring syncs, how many syncs are in which state (Bull's words), and those that run."""

    repeatable: Sequence[Repeatable]
    counts: dict[str, int]
    active: Sequence[Job]


def initialize_user_sync_scheduler() -> None:
    """Make the recurring sync known to Redis, as declared; schedulers do so as they start.

    Safe to repeat: one that an operator paused stays paused. Raises RedisUnavailable.
    """
    logger.info("Initializing user sync scheduler...")
    server = current.server()
    entry = USER_SYNC_SCHEDULE.entry(server.config)
    server.schedules.entries.declare([entry], prune=False)
    logger.info("User sync scheduler initialized successfully")


def trigger_immediate_sync(sync_type: SyncType = "incremental") -> Job:
    """Queue a sync now. Raises RedisUnavailable."""
    return enqueue(sync, {"syncType": sync_type})


def get_user_sync_scheduler_status() -> SchedulerStatus:
    """Return how user sync stands, in one round trip. Raises RedisUnavailable."""
    found = current.server().overview(USER_SYNC.name, states=("active",))
    return SchedulerStatus(
        repeatable=[
            Repeatable(id=entry.id, seconds=entry.seconds, cron=entry.cron, next=due)
            for entry, due in found.entries
            if entry.type == sync.name
        ],
        counts=found.state.bull_counts,
        active=found.jobs,
    )


def pause_user_sync_scheduler() -> None:
    """Let no user sync start, by queue or by schedule; those that run finish."""
    server = current.server()
    server.pause(USER_SYNC.name)
    try:
        server.schedules.pause(USER_SYNC_SCHEDULE.id)
    except ScheduleNotFound:  # no scheduler has run on this Redis
        initialize_user_sync_scheduler()
        server.schedules.pause(USER_SYNC_SCHEDULE.id)
    logger.info("User sync scheduler paused")


def resume_user_sync_scheduler() -> None:
    """Let user syncs start again; ticks that were missed meanwhile make one sync."""
    server = current.server()
    with suppress(ScheduleNotFound):
        server.schedules.resume(USER_SYNC_SCHEDULE.id)
    server.resume(USER_SYNC.name)
    logger.info("User sync scheduler resumed")


def cleanup_old_jobs(*, hours: float = 24) -> int:
    """Purge the syncs that ended at least `hours` ago; return how many."""
    states = ("completed", "failed", "canceled")
    return current.server().clean(USER_SYNC.name, older_than=hours * HOUR, states=states)


def close_queues() -> None:
    """End in order what this process has open: the job server, then the database."""
    current.server().close()
    db.session.remove()
    db.engine.dispose()
