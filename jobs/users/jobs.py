"""User sync: keep the application's users as the directory has them, every 20 minutes."""

import logging
from datetime import UTC, timedelta
from typing import Any

from marshmallow import Schema, fields, validate

from jobs.gateways.directory import LARGEST_PAGE, RATE_KEY
from jobs.gateways.errors import VendorRefused
from jobs.queues import MINUTE, USER_SYNC
from jobs.records.sync_run import Sync
from jobs.settings import current_settings
from jobs.users.sync import SyncType, sync_users
from jobserver import Discard, Every, current_run, job, progress, scheduled_at

logger = logging.getLogger(__name__)


class UserSync(Schema):
    """Which users are synced, and how many at a time."""

    sync_type = fields.String(
        data_key="syncType",
        load_default="incremental",
        validate=validate.OneOf(["incremental", "full"]),
    )
    batch_size = fields.Integer(
        data_key="batchSize", strict=True, validate=validate.Range(1, LARGEST_PAGE)
    )


@job(
    queue=USER_SYNC,
    schema=UserSync,
    limit_key=RATE_KEY,
    example={"syncType": "incremental", "batchSize": 100},
)
def sync(*, sync_type: SyncType = "incremental", batch_size: int | None = None) -> dict[str, Any]:
    """Sync users with the directory.

    Returns {"success", "usersProcessed", "usersUpdated", "errors", "duration" (ms), "timestamp"}.
    Processed are all that were met; those whose reading failed are errors, the others updated.
    """
    settings = current_settings()
    run = current_run()
    logger.info(
        "Starting user sync job (jobId: %s, syncType: %s)", run.id if run else None, sync_type
    )
    try:
        done = sync_users(
            sync_type,
            batch_size=batch_size or settings.user_sync_batch,
            every=timedelta(minutes=settings.user_sync_minutes),
            run=run.run_id if run else None,
            scheduled_at=scheduled_at(),
            report=_report,
        )
    except VendorRefused as error:
        raise Discard(str(error)) from error
    result = _result(done)
    logger.info(
        "User sync job completed successfully\n"
        "  - usersProcessed: %(usersProcessed)d\n"
        "  - usersUpdated: %(usersUpdated)d\n"
        "  - errors: %(errors)d\n"
        "  - duration: %(duration)dms",
        result,
    )
    return result


USER_SYNC_SCHEDULE = Every(
    id="user-sync",
    seconds=20 * MINUTE,
    setting="user_sync_minutes",
    job=sync,
    payload={"syncType": "incremental"},
)


def _report(done: Sync) -> None:
    of_all = "" if done.total is None else f" of {done.total}"
    progress(done.percent, message=f"{done.processed}{of_all} users")


def _result(done: Sync) -> dict[str, Any]:
    ended = done.ended_at or done.started_at
    return {
        "success": True,
        "usersProcessed": done.processed,
        "usersUpdated": done.processed - done.errors,
        "errors": done.errors,
        "duration": round((ended - done.started_at) / timedelta(milliseconds=1)),
        "timestamp": ended.astimezone(UTC).isoformat(timespec="milliseconds"),
    }
