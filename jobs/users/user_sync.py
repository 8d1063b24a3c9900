"""What can be done about user syncs: trigger one, see how they stand, pause, resume, clean up."""

from collections.abc import Sequence
from dataclasses import dataclass

from jobs.queues import HOUR, USER_SYNC
from jobs.users.jobs import sync
from jobs.users.sync import SyncType
from jobserver import Job, current, enqueue


@dataclass(frozen=True, kw_only=True)
class Repeatable:
    """A recurring sync: each `seconds`, next at a Unix time; None until a scheduler has seen it."""

    id: str
    seconds: float
    next: float | None


@dataclass(frozen=True, kw_only=True)
class SchedulerStatus:
    """The recurring syncs, how many syncs are in which state (Bull's words), and those that run."""

    repeatable: Sequence[Repeatable]
    counts: dict[str, int]
    active: Sequence[Job]


def trigger_immediate_sync(sync_type: SyncType = "incremental") -> Job:
    """Queue a sync now. Raises RedisUnavailable."""
    return enqueue(sync, {"syncType": sync_type})


def get_user_sync_scheduler_status() -> SchedulerStatus:
    """Return how user sync stands, in one round trip. Raises RedisUnavailable."""
    found = current.server().overview(USER_SYNC.name, states=("active",))
    return SchedulerStatus(
        repeatable=[
            Repeatable(id=entry.id, seconds=entry.seconds, next=due)
            for entry, due in found.entries
            if entry.type == sync.name and entry.seconds
        ],
        counts=found.state.bull_counts,
        active=found.jobs,
    )


def pause_user_sync_scheduler() -> None:
    """Let no user sync start; those that run finish."""
    current.server().pause(USER_SYNC.name)


def resume_user_sync_scheduler() -> None:
    """Let user syncs start again."""
    current.server().resume(USER_SYNC.name)


def cleanup_old_jobs(*, hours: float = 24) -> int:
    """Purge the syncs that ended at least `hours` ago; return how many."""
    states = ("completed", "failed", "canceled")
    return current.server().clean(USER_SYNC.name, older_than=hours * HOUR, states=states)
