"""The JSON of `/jobs`, names and units as the seed has them."""

from typing import Any

from marshmallow import Schema, fields, validate

from jobs.queues import USER_SYNC
from jobs.users.user_sync import SchedulerStatus
from jobserver import current

CENTURY_HOURS = 36525 * 24


class SyncTriggerSchema(Schema):
    """Which users are synced: those not synced lately, or all."""

    syncType = fields.String(
        load_default="incremental", validate=validate.OneOf(["incremental", "full"])
    )


class CleanUpSchema(Schema):
    """How long ended syncs are left alone."""

    gracePeriodHours = fields.Float(load_default=24, validate=validate.Range(0, CENTURY_HOURS))


class MessageSchema(Schema):
    """That something was done."""

    success = fields.Boolean(required=True)
    message = fields.String(required=True)


class TriggeredSchema(MessageSchema):
    """That a sync is queued."""

    timestamp = fields.AwareDateTime(required=True)
    jobId = fields.String(required=True)


class CleanedUpSchema(MessageSchema):
    """That ended syncs were removed, and how many."""

    removed = fields.Integer(required=True)


class RepeatableJobSchema(Schema):
    """A recurring sync; `every` in ms, null for one by `cron`; `next` in ms since 1970."""

    name = fields.String(required=True)
    key = fields.String(required=True)
    every = fields.Integer(required=True, allow_none=True)
    cron = fields.String()
    next = fields.Integer(required=True, allow_none=True)


class SyncJobCountsSchema(Schema):
    """The syncs by state; `completed` counts all there ever were."""

    active = fields.Integer(required=True)
    waiting = fields.Integer(required=True)
    completed = fields.Integer(required=True)
    failed = fields.Integer(required=True)
    delayed = fields.Integer(required=True)
    paused = fields.Integer(required=True)


class ActiveSyncSchema(Schema):
    """A sync that runs."""

    id = fields.String(required=True)
    data = fields.Raw(required=True)
    progress = fields.Integer(required=True)


class UserSyncSchema(Schema):
    """How user sync stands."""

    repeatableJobs = fields.List(fields.Nested(RepeatableJobSchema), required=True)
    counts = fields.Nested(SyncJobCountsSchema, required=True)
    activeJobs = fields.List(fields.Nested(ActiveSyncSchema), required=True)


class UserSyncStatusSchema(Schema):
    """How user sync stands."""

    success = fields.Boolean(required=True)
    data = fields.Nested(UserSyncSchema, required=True)


def status_body(status: SchedulerStatus) -> dict[str, Any]:
    """Return how user sync stands as UserSyncSchema says."""
    return {
        "repeatableJobs": [
            {
                "name": "__default__",  # Bull's name of a job that was given none
                "key": f"{USER_SYNC.name}:{entry.id}",
                "every": None if entry.seconds is None else round(entry.seconds * 1000),
                "next": None if entry.next is None else round(entry.next * 1000),
                **({} if entry.cron is None else {"cron": entry.cron}),
            }
            for entry in status.repeatable
        ],
        "counts": status.counts,
        "activeJobs": [
            {
                "id": job.id,
                "data": current.server().redacted(job.type, job.payload),
                "progress": int(job.progress),
            }
            for job in status.active
        ],
    }
