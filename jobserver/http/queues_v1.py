"""`/api/v1/queues`: how queues stand, and their jobs; the seed's routes are in queue_admin.py."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from flask import Response
from marshmallow import Schema, fields, validate

from jobserver import current, payload
from jobserver.broker import QueueState
from jobserver.http import guard, jobs_v1, paging
from jobserver.http.blueprint import Blueprint
from jobserver.http.enqueue import AcceptedSchema
from jobserver.http.idempotency import idempotent
from jobserver.http.schemas import JobSummarySchema


class CountsSchema(Schema):
    """Jobs by state; of ended ones those that are kept."""

    waiting = fields.Integer(required=True)
    active = fields.Integer(required=True)
    delayed = fields.Integer(required=True)
    completed = fields.Integer(required=True)
    failed = fields.Integer(required=True)
    canceled = fields.Integer(required=True)


class QueuePauseSchema(Schema):
    """That nothing of the queue starts; running jobs finish."""

    until = fields.AwareDateTime(
        required=True, allow_none=True, metadata={"description": "null: until it is resumed"}
    )
    reason = fields.String(required=True)


class RetentionSchema(Schema):
    """How many ended jobs are kept, and for how many seconds, whichever ends first."""

    completedCount = fields.Integer(required=True)
    completedAge = fields.Float(required=True)
    failedCount = fields.Integer(required=True)
    failedAge = fields.Float(required=True)


class QueueSchema(Schema):
    """A queue: how it stands, and how its jobs are run and kept."""

    name = fields.String(required=True)
    key = fields.String(required=True, allow_none=True)
    aliases = fields.List(fields.String(), required=True)
    counts = fields.Nested(CountsSchema, required=True)
    completedEver = fields.Integer(required=True)
    pause = fields.Nested(QueuePauseSchema, required=True, allow_none=True)
    executor = fields.String(required=True, validate=validate.OneOf(("process", "thread")))
    concurrency = fields.Integer(
        required=True, allow_none=True, metadata={"description": "running jobs in one worker"}
    )
    globalConcurrency = fields.Integer(
        required=True, allow_none=True, metadata={"description": "running jobs in all workers"}
    )
    retention = fields.Nested(RetentionSchema, required=True)


class QueuesSchema(Schema):
    """All queues."""

    items = fields.List(fields.Nested(QueueSchema), required=True)


class EmptiedSchema(Schema):
    """How many jobs were removed."""

    name = fields.String(required=True)
    removed = fields.Integer(required=True)


def blueprint() -> Blueprint:
    """Return the routes below `/api/v1/queues`."""
    routes = Blueprint(
        "jobserver_queues_v1",
        __name__,
        url_prefix="/api/v1/queues",
        description="How the queues stand; a queue is named by its name, key or an alias",
    )
    guard.protect(routes, role="viewer")

    @routes.get("")
    @routes.response(200, QueuesSchema)
    def list_queues() -> Response:
        """List the queues with their counts, pauses and limits."""
        items = [queue_body(state) for state in current.server().statistics().values()]
        return Response(payload.dumps({"items": items}), content_type="application/json")

    @routes.get("/<queue>")
    @routes.response(200, QueueSchema)
    def show_queue(queue: str) -> Response:
        """Show one queue."""
        server = current.server()
        found = server.registry.queue(queue)
        state = server.broker.statistics([found])[found.name]
        return Response(payload.dumps(queue_body(state)), content_type="application/json")

    @routes.get("/<queue>/jobs")
    @routes.arguments(jobs_v1.JobFilterSchema, location="query")
    @routes.response(200, paging.listed(JobSummarySchema))
    def list_jobs(asked: Mapping[str, Any], queue: str) -> Response:
        """List the jobs of a queue, as `GET /api/v1/jobs` lists those of all."""
        name = current.server().registry.queue(queue).name
        return jobs_v1.listing(asked, queue=name, of="queue")

    @routes.post("/<queue>/empty")
    @routes.response(200, EmptiedSchema)
    @guard.needs("admin")
    def empty_queue(queue: str) -> Response:
        """Remove the waiting and delayed jobs of a queue, never the running ones."""
        server = current.server()
        with guard.operator_action("queue.empty", role="admin") as action:
            removed = server.empty(queue)
            action.detail = f"{removed} jobs"
        body = {"name": server.registry.queue(queue).name, "removed": removed}
        return Response(payload.dumps(body), content_type="application/json")

    @routes.post("/<queue>/jobs/<job_id>/promote")
    @idempotent
    @routes.response(202, AcceptedSchema)
    @routes.alt_response(409, "CONFLICT")
    @guard.needs("operator")
    @guard.operator_action("job.promote")
    def promote_job(queue: str, job_id: str) -> Response:
        """Let a delayed job of this queue, or one between two attempts, wait in line now."""
        return jobs_v1.accepted(current.server().promote(job_id, queue=queue))

    return routes


def queue_body(state: QueueState) -> dict[str, Any]:
    """Return how a queue stands as QueueSchema describes it, ready for `payload.dumps`."""
    queue, pause, kept = state.queue, state.pause, state.queue.retention
    return {
        "name": queue.name,
        "key": queue.key,
        "aliases": queue.aliases,
        "counts": state.counts,
        "completedEver": state.completed_ever,
        "pause": pause
        and {
            "until": datetime.fromtimestamp(pause.until, tz=UTC) if pause.until else None,
            "reason": pause.reason,
        },
        "executor": queue.executor,
        "concurrency": queue.concurrency,
        "globalConcurrency": queue.global_concurrency,
        "retention": {
            "completedCount": kept.completed_count,
            "completedAge": kept.completed_age,
            "failedCount": kept.failed_count,
            "failedAge": kept.failed_age,
        },
    }
