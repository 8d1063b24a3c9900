"""The JSON of the API, as marshmallow schemas."""

from __future__ import annotations

from datetime import UTC, datetime
from math import ceil
from typing import Any

from marshmallow import Schema, fields, validate

from jobserver.broker import Job
from jobserver.broker.listing import Attempt
from jobserver.ledger.runs import OUTCOMES
from jobserver.ledger.runs import Attempt as Spent
from jobserver.policy import PRIORITIES

_STATUSES = ("waiting", "delayed", "active", "completed", "failed", "canceled")


class Number(fields.Float):
    """A JSON number; text that looks like one is refused."""

    def _validated(self, value: Any) -> float:
        if isinstance(value, str):
            raise self.make_error("invalid", input=value)
        return super()._validated(value)


class WholeNumber(fields.Integer):
    """A JSON number without a fraction; text that looks like one is refused."""

    def _validated(self, value: Any) -> int:
        is_whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
        if not is_whole:
            raise self.make_error("invalid", input=value)
        return super()._validated(value)


class Flag(fields.Boolean):
    """A JSON boolean; what only looks like one is refused."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> bool:
        if not isinstance(value, bool):
            raise self.make_error("invalid", input=value)
        return value


class FieldErrorSchema(Schema):
    """One wrong field."""

    pointer = fields.String(required=True, metadata={"description": "JSON pointer to the field"})
    detail = fields.String(required=True)


class ProblemSchema(Schema):
    """An error (RFC 9457); `success` is there on the seeds' routes."""

    type = fields.String(required=True)
    title = fields.String(required=True)
    status = fields.Integer(required=True)
    detail = fields.String(required=True)
    instance = fields.String(required=True)
    errors = fields.List(fields.Nested(FieldErrorSchema))
    success = fields.Boolean(validate=validate.Equal(False))


class ProgressSchema(Schema):
    """How far a job is; never falls within an attempt."""

    percent = fields.Integer(required=True, validate=validate.Range(0, 100))
    message = fields.String(required=True)


class ErrorSchema(Schema):
    """Why the last attempt failed."""

    type = fields.String(required=True)
    message = fields.String(required=True)


class JobSchema(Schema):
    """One job as `GET /api/v1/jobs/<id>` answers it; `job_body` makes it of a `Job`."""

    id = fields.String(required=True)
    type = fields.String(required=True)
    queue = fields.String(required=True)
    status = fields.String(required=True, validate=validate.OneOf(_STATUSES))
    rawStatus = fields.String(required=True, metadata={"description": "RQ's own word"})
    progress = fields.Nested(ProgressSchema, required=True)
    attempt = fields.Integer(required=True, metadata={"description": "0 before the first run"})
    attempts = fields.Integer(required=True, metadata={"description": "runs allowed in all"})
    trace = fields.String(
        required=True,
        metadata={"description": "what set it off: a request's X-Request-Id, or another job's"},
    )
    createdAt = fields.AwareDateTime(required=True, allow_none=True)
    startedAt = fields.AwareDateTime(required=True, allow_none=True)
    endedAt = fields.AwareDateTime(required=True, allow_none=True)
    durationMs = fields.Integer(required=True, allow_none=True)
    result = fields.Raw(required=True, allow_none=True)
    error = fields.Nested(ErrorSchema, required=True, allow_none=True)
    retryAfter = fields.Integer(
        required=True, allow_none=True, metadata={"description": "seconds until the next look"}
    )
    source = fields.String(
        required=True,
        validate=validate.OneOf(("redis", "ledger")),
        metadata={"description": "ledger: Redis has let it go, it is as its last run left it"},
    )


class JobSummarySchema(Schema):
    """One job in a list; `summary_body` makes it of a `Job`."""

    id = fields.String(required=True)
    type = fields.String(required=True)
    queue = fields.String(required=True)
    priority = fields.String(required=True, validate=validate.OneOf(PRIORITIES))
    status = fields.String(required=True, validate=validate.OneOf(_STATUSES))
    rawStatus = fields.String(required=True)
    progress = fields.Nested(ProgressSchema, required=True)
    attempt = fields.Integer(required=True)
    attempts = fields.Integer(required=True)
    key = fields.String(required=True, allow_none=True)
    owner = fields.String(required=True, allow_none=True)
    createdAt = fields.AwareDateTime(required=True, allow_none=True)
    dueAt = fields.AwareDateTime(required=True, allow_none=True)
    startedAt = fields.AwareDateTime(required=True, allow_none=True)
    endedAt = fields.AwareDateTime(required=True, allow_none=True)
    durationMs = fields.Integer(required=True, allow_none=True)
    worker = fields.String(required=True, allow_none=True)
    error = fields.Nested(ErrorSchema, required=True, allow_none=True)


class ResultSchema(Schema):
    """What a job returned."""

    id = fields.String(required=True)
    result = fields.Raw(required=True, allow_none=True)


class AttemptSchema(Schema):
    """A run of a job by one worker that has ended; `error` is a traceback."""

    number = fields.Integer(required=True, metadata={"description": "1 is the first run"})
    outcome = fields.String(required=True, validate=validate.OneOf(OUTCOMES))
    worker = fields.String(required=True, allow_none=True)
    startedAt = fields.AwareDateTime(required=True, allow_none=True)
    endedAt = fields.AwareDateTime(required=True, allow_none=True)
    durationMs = fields.Integer(required=True, allow_none=True)
    error = fields.String(required=True, allow_none=True)


class SpentAttemptSchema(AttemptSchema):
    """An attempt as the ledger has it."""

    reason = fields.String(required=True, allow_none=True)
    exitReason = fields.String(
        required=True, allow_none=True, metadata={"description": "how the process ended, if it did"}
    )
    peakRss = fields.Integer(required=True, allow_none=True, metadata={"description": "in bytes"})


class LineSchema(Schema):
    """A line that a job logged; `number` counts from 1 over all attempts of its run."""

    number = fields.Integer(required=True)
    at = fields.AwareDateTime(required=True)
    attempt = fields.Integer(required=True)
    level = fields.String(required=True, metadata={"example": "info"})
    logger = fields.String(required=True)
    message = fields.String(required=True)


class LogsSchema(Schema):
    """The last lines of a run."""

    run = fields.String(required=True)
    dropped = fields.Integer(required=True, metadata={"description": "lines before the first"})
    items = fields.List(fields.Nested(LineSchema), required=True)


class AttemptsSchema(Schema):
    """The attempts of a job."""

    items = fields.List(fields.Nested(AttemptSchema), required=True)


def job_body(job: Job) -> dict[str, Any]:
    """Return a job as JobSchema describes it, ready for `payload.dumps`.

    Built by hand: the schema's own dump takes as long as all the rest of a poll.
    """
    return {
        "id": job.id,
        "type": job.type,
        "queue": job.queue,
        "status": job.status,
        "rawStatus": job.raw_status,
        "progress": {"percent": int(job.progress), "message": job.message},
        "attempt": job.attempt,
        "attempts": job.attempts,
        "trace": job.trace,
        "createdAt": job.created_at,
        "startedAt": job.started_at,
        "endedAt": job.ended_at,
        "durationMs": job.duration_ms,
        "result": job.result,
        "error": _error(job),
        "retryAfter": retry_after(job, now=datetime.now(UTC)),
        "source": job.source,
    }


def summary_body(job: Job) -> dict[str, Any]:
    """Return a job as JobSummarySchema describes it, ready for `payload.dumps`."""
    return {
        "id": job.id,
        "type": job.type,
        "queue": job.queue,
        "priority": job.priority,
        "status": job.status,
        "rawStatus": job.raw_status,
        "progress": {"percent": int(job.progress), "message": job.message},
        "attempt": job.attempt,
        "attempts": job.attempts,
        "key": job.key,
        "owner": job.owner,
        "createdAt": job.created_at,
        "dueAt": job.due_at,
        "startedAt": job.started_at,
        "endedAt": job.ended_at,
        "durationMs": job.duration_ms,
        "worker": job.worker,
        "error": _error(job),
    }


def attempt_body(attempt: Attempt) -> dict[str, Any]:
    """Return an attempt as AttemptSchema describes it, ready for `payload.dumps`."""
    started, ended = attempt.started, attempt.ended
    return {
        "number": attempt.number,
        "outcome": "completed" if attempt.completed else "failed",
        "worker": attempt.worker,
        "startedAt": None if started is None else datetime.fromtimestamp(started, tz=UTC),
        "endedAt": datetime.fromtimestamp(ended, tz=UTC),
        "durationMs": None if started is None else max(0, round((ended - started) * 1000)),
        "error": attempt.error,
    }


def spent_body(spent: Spent) -> dict[str, Any]:
    """Return an attempt of the ledger as AttemptSchema describes it."""
    started, ended = spent.started_at, spent.ended_at
    took = None if started is None or ended is None else (ended - started).total_seconds()
    return {
        "number": spent.number,
        "outcome": spent.outcome,
        "worker": spent.worker,
        "startedAt": started,
        "endedAt": ended,
        "durationMs": None if took is None else max(0, round(took * 1000)),
        "error": spent.traceback or spent.error_message,
    }


def retry_after(job: Job, *, now: datetime) -> int | None:
    """Return the seconds after which a poller should look again, None when nothing will change."""
    if job.is_ended:
        return None
    if job.status == "active":
        return 1
    if job.status == "delayed" and job.due_at:
        return max(1, min(60, ceil((job.due_at - now).total_seconds())))
    return 2


def _error(job: Job) -> dict[str, str] | None:
    if job.error_type is None and job.error_message is None:
        return None
    return {"type": job.error_type or "", "message": job.error_message or ""}
