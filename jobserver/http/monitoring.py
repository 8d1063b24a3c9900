"""`/api/jobs` as the seed has it: how queues stand, and one route for all that is done to one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flask import Response
from marshmallow import Schema, fields, validate
from werkzeug.routing import Map, UnicodeConverter

from jobserver import current
from jobserver.auth import Role
from jobserver.http import guard, seeds
from jobserver.http.blueprint import Blueprint
from jobserver.server import Server

QUEUE_NAME = "jobserver_queue_name"  # the converter's name in an app

# What is done, the role it takes, what the answer says, and the verb.
Verb = Callable[[Server, str], int]
ACTIONS: dict[str, tuple[Role, str, Verb]] = {
    "pause": ("operator", "paused", Server.pause),
    "resume": ("operator", "resumed", Server.resume),
    "empty": ("admin", "emptied", Server.empty),
    "clean": ("admin", "cleaned", Server.sweep),
}


class QueueNameConverter(UnicodeConverter):
    """What may name a queue in a path: not the name of a path beside it.

    Else the router would say that `/monitoring` can be posted to.
    """

    def __init__(self, map: Map) -> None:
        super().__init__(map)
        self.regex = f"(?!monitoring$){self.regex}"


class AllQueuesSchema(Schema):
    """How all queues stand, by name, and what that is in all."""

    queues = fields.Dict(
        keys=fields.String(), values=fields.Nested(seeds.BullCountsSchema), required=True
    )
    totals = fields.Nested(seeds.BullCountsSchema, required=True)


class MonitoringSchema(Schema):
    """How all queues stand."""

    success = fields.Boolean(required=True, validate=validate.Equal(True))
    data = fields.Nested(AllQueuesSchema, required=True)


class QueueDetailsSchema(Schema):
    """How a queue stands, and its latest failed jobs."""

    queueName = fields.String(required=True)
    stats = fields.Nested(seeds.BullCountsSchema, required=True)
    failedJobs = fields.List(fields.Nested(seeds.FailedJobSchema), required=True)


class QueueMonitoringSchema(Schema):
    """How a queue stands."""

    success = fields.Boolean(required=True, validate=validate.Equal(True))
    data = fields.Nested(QueueDetailsSchema, required=True)


class RetryFailedSchema(Schema):
    """What is retried: one failed job of a queue, or all of them."""

    queueName = fields.String(required=True)
    jobId = fields.String()


class ActionSchema(Schema):
    """What is done to a queue."""

    action = fields.String(required=True, validate=validate.OneOf(ACTIONS))


def blueprint() -> Blueprint:
    """Return the seed's routes below `/api/jobs`."""
    routes = Blueprint(
        "jobserver_monitoring",
        __name__,
        url_prefix="/api/jobs",
        description="Queues at a glance",
    )
    guard.protect(routes, role="viewer", seed=True)

    @routes.get("/monitoring")
    @routes.response(200, MonitoringSchema)
    def show_all() -> Response:
        """Count the jobs of every queue, by the queue's name, and of all."""
        states = current.server().statistics().values()
        queues = {state.queue.public_name: state.bull_counts for state in states}
        totals = {
            name: sum(counts[name] for counts in queues.values())
            for name in seeds.BullCountsSchema().fields
        }
        return seeds.answer({"success": True, "data": {"queues": queues, "totals": totals}})

    @routes.post("/monitoring/retry")
    @routes.arguments(RetryFailedSchema)
    @routes.response(202, seeds.RetriedSchema)
    @routes.alt_response(404, "NOT_FOUND")
    @routes.alt_response(409, "CONFLICT")
    @guard.needs("operator")
    def retry_failed(values: dict[str, str]) -> Response:
        """Let one failed job of a queue wait again, or all of them."""
        server, queue, job_id = current.server(), values["queueName"], values.get("jobId")
        if job_id is not None:
            with guard.operator_action("job.retry", target=f"{queue}/{job_id}"):
                server.retry(job_id, queue=queue)
            message = f"Job {job_id} is queued again"
            return seeds.done(message, status=202, jobId=job_id, retried=1)
        with guard.operator_action("queue.retry", target=queue) as action:
            retried = server.retry_all_failed(queue)
            action.detail = f"{retried} jobs"
        name = server.registry.queue(queue).public_name
        message = f"{retried} failed jobs of queue {name} are queued again"
        return seeds.done(message, status=202, retried=retried)

    @routes.get(f"/<{QUEUE_NAME}:queue>")
    @routes.response(200, QueueMonitoringSchema)
    def show_queue(queue: str) -> Response:
        """Count the jobs of one queue, and list its latest failed ones."""
        found = current.server().overview(queue, states=("failed",))
        data: dict[str, Any] = {
            "queueName": found.state.queue.public_name,
            "stats": found.state.bull_counts,
            "failedJobs": [seeds.failed_job(job) for job in found.jobs],
        }
        return seeds.answer({"success": True, "data": data})

    @routes.post(f"/<{QUEUE_NAME}:queue>")
    @routes.arguments(ActionSchema, location="query")
    @routes.response(200, seeds.RemovedSchema)
    @guard.needs("operator")
    def act(values: dict[str, str], queue: str) -> Response:
        """Pause or resume a queue, empty it of what waits, or clean it of what ended long ago.

        The last two need the role `admin`; cleaning removes what the queue's retention would.
        """
        role, word, verb = ACTIONS[values["action"]]
        server = current.server()
        with guard.operator_action(f"queue.{values['action']}", role=role, target=queue) as action:
            number = verb(server, queue)
            removed = {"removed": number} if role == "admin" else {}
            action.detail = "".join(f"{count} jobs" for count in removed.values())
        return seeds.done(f"Queue {server.registry.queue(queue).public_name} {word}", **removed)

    return routes
