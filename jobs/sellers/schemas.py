"""The JSON of `/app/job-status`, names and units as the seed has them."""

from typing import Any

from marshmallow import Schema, fields, validate

from jobserver import Job


class LimitSchema(Schema):
    """How many jobs are listed."""

    limit = fields.Integer(load_default=100, validate=validate.Range(1, 200))


class JobStatusSchema(Schema):
    """A job; `status` is waiting, active, completed or failed, `rawStatus` is RQ's own word."""

    jobId = fields.String(required=True)
    userId = fields.String(required=True, allow_none=True)
    status = fields.String(
        required=True, validate=validate.OneOf(["waiting", "active", "completed", "failed"])
    )
    progress = fields.Integer(required=True)
    startedAt = fields.AwareDateTime(required=True, allow_none=True)
    completedAt = fields.AwareDateTime(required=True, allow_none=True)
    failedAt = fields.AwareDateTime(required=True, allow_none=True)
    durationMs = fields.Integer(required=True, allow_none=True)
    accountsProcessed = fields.Integer(required=True, allow_none=True)
    errors = fields.List(fields.String(), required=True)
    rawStatus = fields.String(required=True)


class JobStatusAnswerSchema(Schema):
    """A job."""

    success = fields.Boolean(required=True)
    data = fields.Nested(JobStatusSchema, required=True)


class JobStatusListSchema(Schema):
    """Jobs, and how many are listed."""

    success = fields.Boolean(required=True)
    data = fields.List(fields.Nested(JobStatusSchema), required=True)
    count = fields.Integer(required=True)


class UserDataCountsSchema(Schema):
    """Jobs by state; `completed` counts all there ever were."""

    waiting = fields.Integer(required=True)
    active = fields.Integer(required=True)
    completed = fields.Integer(required=True)
    failed = fields.Integer(required=True)
    delayed = fields.Integer(required=True)
    paused = fields.Integer(required=True)


class UserDataStatsSchema(Schema):
    """How the queue stands."""

    success = fields.Boolean(required=True)
    data = fields.Nested(UserDataCountsSchema, required=True)


STATUS = JobStatusSchema()


def job_status_body(job: Job) -> Any:
    """Return a job as JobStatusSchema says."""
    payload = job.payload if isinstance(job.payload, dict) else {}
    result = job.result if isinstance(job.result, dict) else {}
    status = job.seed_status
    return STATUS.dump(
        {
            "jobId": job.id,
            "userId": payload.get("userId"),
            "status": status,
            "progress": job.progress,
            "startedAt": job.started_at,
            "completedAt": job.ended_at if status == "completed" else None,
            "failedAt": job.ended_at if status == "failed" else None,
            "durationMs": job.duration_ms,
            "accountsProcessed": result.get("accountsProcessed"),
            "errors": [job.failed_reason] if job.failed_reason else result.get("errors", []),
            "rawStatus": job.raw_status,
        }
    )
