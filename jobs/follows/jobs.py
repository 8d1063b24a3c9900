"""Product sync: copy one shop's catalogue to a follower shop, with its markup."""

import logging

from marshmallow import Schema, fields, validate
from sqlalchemy import select

from jobs.follows.errors import FollowNotFound, NothingToSync
from jobs.follows.sync import sync_all_products_for_follow
from jobs.queues import HOUR, PRODUCT_SYNC
from jobs.records import Follow, FollowMode, FollowStatus, Plan, Shop, db
from jobs.records.batches import batched
from jobs.records.columns import LARGEST_INTEGER
from jobs.settings import current_settings
from jobserver import (
    Discard,
    Every,
    current_run,
    enqueue_many,
    job,
    progress,
)

RESYNC_BATCH = 500

logger = logging.getLogger(__name__)


class ProductSync(Schema):
    """Which follow is synced."""

    follow_id = fields.Integer(
        required=True, strict=True, validate=validate.Range(1, LARGEST_INTEGER)
    )


@job(
    queue=PRODUCT_SYNC,
    schema=ProductSync,
    key="follow-{follow_id}",
    example={"follow_id": 1},
)
def sync_products(*, follow_id: int) -> dict[str, int]:
    """Sync one follow; returns {"synced": int, "skipped": int, "errors": int}."""
    run = current_run()
    logger.info("[SyncQueue] Starting product sync for follow %d", follow_id)
    try:
        result = sync_all_products_for_follow(
            follow_id,
            run_id=run.run_id if run else None,
            report=lambda percent, message: progress(percent, message=message),
            pause=current_settings().sync_batch_pause,
        )
    except (FollowNotFound, NothingToSync) as error:
        raise Discard(str(error)) from error
    logger.info("[SyncQueue] Completed product sync for follow %d", follow_id)
    logger.info(
        "[SyncQueue] Job %s completed successfully - synced: %d, errors: %d",
        run.id if run else "(none)",
        result.synced,
        result.errors,
    )
    return {"synced": result.synced, "skipped": result.skipped, "errors": result.errors}


@job(queue=PRODUCT_SYNC)
def resync_follows() -> dict[str, int]:
    """Enqueue a sync of every active resell follow; returns {"enqueued": int, "active": int}.

    `active` counts the follows whose sync was waiting or running already.
    """
    enqueued = active = 0
    # One step below those that somebody waits for (sync_queue.py), premium shops first there too.
    for plan, priority in ((Plan.PREMIUM, "normal"), (Plan.FREE, "low")):
        for owner, follow_ids in _to_sync(plan).items():
            for batch in batched(follow_ids, RESYNC_BATCH):
                jobs = enqueue_many(
                    sync_products,
                    [{"follow_id": follow_id} for follow_id in batch],
                    priority=priority,
                    owner=owner,
                )
                active += sum(job.duplicate for job in jobs)
                enqueued += sum(not job.duplicate for job in jobs)
    logger.info("[SyncQueue] Queued %d re-syncs, %d were queued already", enqueued, active)
    return {"enqueued": enqueued, "active": active}


def _to_sync(plan: Plan) -> dict[str | None, list[int]]:
    """Return the ids of follows by owner."""
    rows = db.session.execute(
        select(Follow.owner, Follow.id)
        .join(Shop, Shop.id == Follow.follower_shop_id)
        .where(
            Follow.mode == FollowMode.RESELL,
            Follow.status == FollowStatus.ACTIVE,
            Shop.plan == plan,
        )
        .order_by(Follow.id)
    ).all()
    db.session.rollback()
    found: dict[str | None, list[int]] = {}
    for owner, follow_id in rows:
        found.setdefault(owner, []).append(follow_id)
    return found


RESYNC = Every(id="follows-resync", seconds=6 * HOUR, setting="resync_hours", job=resync_follows)
