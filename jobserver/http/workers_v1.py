"""`/api/v1/workers`: who runs jobs, and which."""

from __future__ import annotations

from typing import Any

from flask import Response
from marshmallow import Schema, fields

from jobserver import current, payload
from jobserver.broker.workers import WorkerState
from jobserver.http import guard
from jobserver.http.blueprint import Blueprint


class RunningJobSchema(Schema):
    """A job that a worker runs."""

    id = fields.String(required=True)
    type = fields.String(required=True)
    queue = fields.String(required=True)
    attempt = fields.Integer(required=True)
    startedAt = fields.AwareDateTime(required=True, allow_none=True)


class WorkerSchema(Schema):
    """A worker as it said of itself at `seenAt`; slots are null for one of stock RQ."""

    name = fields.String(required=True)
    state = fields.String(required=True, metadata={"description": "idle, busy, starting, …"})
    host = fields.String(required=True)
    pid = fields.Integer(required=True, allow_none=True)
    queues = fields.List(fields.String(), required=True)
    processSlots = fields.Integer(required=True, allow_none=True)
    threadSlots = fields.Integer(required=True, allow_none=True)
    jobs = fields.List(fields.Nested(RunningJobSchema), required=True)
    completed = fields.Integer(required=True)
    failed = fields.Integer(required=True)
    busySeconds = fields.Float(required=True, metadata={"description": "in all slots together"})
    startedAt = fields.AwareDateTime(required=True, allow_none=True)
    seenAt = fields.AwareDateTime(required=True, allow_none=True)


class WorkersSchema(Schema):
    """All workers."""

    items = fields.List(fields.Nested(WorkerSchema), required=True)


def blueprint() -> Blueprint:
    """Return the route below `/api/v1/workers`."""
    routes = Blueprint(
        "jobserver_workers_v1",
        __name__,
        url_prefix="/api/v1/workers",
        description="Who runs jobs",
    )
    guard.protect(routes, role="viewer")

    @routes.get("")
    @routes.response(200, WorkersSchema)
    def list_workers() -> Response:
        """List the workers that are registered, with all the jobs they run now."""
        items = [_body(worker) for worker in current.server().workers()]
        return Response(payload.dumps({"items": items}), content_type="application/json")

    return routes


def _body(worker: WorkerState) -> dict[str, Any]:
    return {
        "name": worker.name,
        "state": worker.state,
        "host": worker.host,
        "pid": worker.pid,
        "queues": worker.queues,
        "processSlots": worker.process_slots,
        "threadSlots": worker.thread_slots,
        "jobs": [
            {
                "id": job.id,
                "type": job.type,
                "queue": job.queue,
                "attempt": job.attempt,
                "startedAt": job.started_at,
            }
            for job in worker.jobs
        ],
        "completed": worker.completed,
        "failed": worker.failed,
        "busySeconds": worker.busy_seconds,
        "startedAt": worker.started_at,
        "seenAt": worker.seen_at,
    }
