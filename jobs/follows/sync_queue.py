"""What can be done about product syncs: queue one, look at the failed, retry, clean."""

import logging
from collections.abc import Sequence

from sqlalchemy.orm import Session

from jobs.follows.jobs import sync_products
from jobs.follows.lookup import find_follow
from jobs.queues import DAY, PRODUCT_SYNC
from jobs.records import Plan, db
from jobserver import Job, current, enqueue
from jobserver.errors import PayloadInvalid

logger = logging.getLogger(__name__)


def queue_product_sync(
    follow_id: int,
    *,
    source_shop_id: int | None = None,
    follower_shop_id: int | None = None,
    session: Session | None = None,
) -> Job:
    """Queue the sync of a follow; that of a premium shop goes first. Returns the active one if any.

    The shops are the follow's own; given, they are checked. With `session` the job is made when
    its transaction commits; the caller then logs it with `log_queued`. Raises FollowNotFound,
    PayloadInvalid, KeyConflict, RedisUnavailable.
    """
    follow = find_follow(follow_id, session=session)
    _check_shop("source_shop_id", source_shop_id, follow.source_shop_id)
    _check_shop("follower_shop_id", follower_shop_id, follow.follower_shop_id)
    priority = "high" if follow.follower.plan == Plan.PREMIUM else "normal"
    owner = follow.owner
    if session is None:
        db.session.rollback()
    job = enqueue(
        sync_products, {"follow_id": follow_id}, session=session, priority=priority, owner=owner
    )
    if session is None:
        log_queued(follow_id)
    return job


def log_queued(follow_id: int) -> None:
    """Say in the log that a sync was queued."""
    logger.info("[SyncQueue] Queued product sync job for follow %d", follow_id)


def get_failed(*, start: int = 0, end: int = 99) -> list[Job]:
    """Return the failed syncs, newest first; `start` and `end` are ranks, both included."""
    return current.server().failed(PRODUCT_SYNC.name, start=start, end=end)


def retry(job_id: str) -> Job:
    """Queue a failed sync again. Raises JobNotFound, and WrongState for one that has not failed."""
    return current.server().retry(job_id)


def clean(*, older_than: float = 7 * DAY, states: Sequence[str] = ("failed",)) -> int:
    """Purge the syncs that ended `older_than` seconds ago in one of `states`; return how many."""
    return current.server().clean(PRODUCT_SYNC.name, older_than=older_than, states=states)


def _check_shop(name: str, given: int | None, actual: int) -> None:
    if given not in (None, actual):
        detail = f"{name}: the follow's own, {actual}, is accepted."
        raise PayloadInvalid(errors=[{"pointer": f"#/{name}", "detail": detail}])
