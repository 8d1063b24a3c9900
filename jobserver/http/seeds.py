"""What the seeds' routes share: Bull's counts, failed jobs, ranges of ranks, and plain answers.

Names, casing and units are the seeds'; `rawStatus`, and other members beyond theirs, are ours.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from flask import Response
from marshmallow import Schema, ValidationError, fields, post_load, validate, validates_schema

from jobserver import current, payload
from jobserver.broker import Job
from jobserver.policy import CENTURY, HOUR

MOST_RANK = 2**31 - 1
MOST_JOBS = 200  # in one answer

_count = validate.Range(min=0)


class BullCountsSchema(Schema):
    """The jobs of a queue as Bull counts them."""

    waiting = fields.Integer(required=True, validate=_count)
    active = fields.Integer(required=True, validate=_count)
    completed = fields.Integer(
        required=True, validate=_count, metadata={"description": "how many ever completed"}
    )
    failed = fields.Integer(
        required=True, validate=_count, metadata={"description": "how many can be retried now"}
    )
    delayed = fields.Integer(required=True, validate=_count)
    paused = fields.Integer(
        required=True, validate=_count, metadata={"description": "what waits in a paused queue"}
    )


class FailedJobSchema(Schema):
    """A failed job."""

    id = fields.String(required=True)
    name = fields.String(required=True, metadata={"description": "the job's type"})
    data = fields.Raw(required=True, metadata={"description": "the payload"})
    failedReason = fields.String(required=True)
    attemptsMade = fields.Integer(required=True)
    timestamp = fields.Integer(required=True, allow_none=True, metadata={"description": "made, ms"})
    finishedOn = fields.Integer(required=True, allow_none=True, metadata={"description": "in ms"})
    rawStatus = fields.String(required=True, metadata={"description": "RQ's own word"})


class DoneSchema(Schema):
    """That something was done."""

    success = fields.Boolean(required=True, validate=validate.Equal(True))
    message = fields.String(required=True)


class RemovedSchema(DoneSchema):
    """That jobs were removed, and how many."""

    removed = fields.Integer(validate=_count)


class RetriedSchema(DoneSchema):
    """That failed jobs wait again: how many, and which if it is one."""

    retried = fields.Integer(required=True, validate=_count)
    jobId = fields.String()


class RanksSchema(Schema):
    """Which jobs of a list are wanted: ranks from 0, both included as Bull's are, or `limit`."""

    start = fields.Integer(load_default=0, validate=validate.Range(0, MOST_RANK))
    end = fields.Integer(validate=validate.Range(0, MOST_RANK))
    limit = fields.Integer(validate=validate.Range(1, MOST_JOBS))

    @validates_schema
    def _is_short(self, values: dict[str, int], **_: Any) -> None:
        if values.get("end", 0) - values["start"] >= MOST_JOBS and "limit" not in values:
            raise ValidationError(f"At most {MOST_JOBS} jobs are listed at once.", "end")

    @post_load
    def _ranks(self, values: dict[str, int], **_: Any) -> dict[str, int]:
        start = values["start"]
        ends = [start + values["limit"] - 1] if "limit" in values else []
        ends += [values["end"]] if "end" in values else []
        return {"start": start, "end": min(ends, default=start + 99)}


class GracePeriodSchema(Schema):
    """How long ended jobs are left alone."""

    gracePeriodHours = fields.Float(
        load_default=24, validate=validate.Range(0, CENTURY / HOUR), metadata={"example": 24}
    )


def failed_job(job: Job) -> dict[str, Any]:
    """Return a failed job as FailedJobSchema says."""
    return {
        "id": job.id,
        "name": job.type,
        "data": current.server().redacted(job.type, job.payload),
        "failedReason": job.failed_reason,
        "attemptsMade": job.attempt,
        "timestamp": milliseconds(job.created_at),
        "finishedOn": milliseconds(job.ended_at),
        "rawStatus": job.raw_status,
    }


def milliseconds(moment: datetime | None) -> int | None:
    """Return a time as JavaScript counts it."""
    return None if moment is None else round(moment.timestamp() * 1000)


def done(message: str, *, status: int = 200, **more: object) -> Response:
    """Return the seeds' plain answer, with `more` members than theirs."""
    return answer({"success": True, "message": message, **more}, status=status)


def answer(body: object, *, status: int = 200) -> Response:
    """Return a JSON answer that nobody keeps."""
    response = Response(payload.dumps(body), status, content_type="application/json")
    response.headers["Cache-Control"] = "no-store"
    return response
