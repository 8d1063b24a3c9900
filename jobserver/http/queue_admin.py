"""`/api/v1/queues` as the seed has it: statistics, failed jobs, and what is done to a queue."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from flask import Response
from marshmallow import Schema, ValidationError, fields, validate

from jobserver import current
from jobserver.http import guard, seeds
from jobserver.http.blueprint import Blueprint
from jobserver.policy import HOUR


class QueueStatisticsSchema(Schema):
    """How a queue stands."""

    name = fields.String(required=True)
    counts = fields.Nested(seeds.BullCountsSchema, required=True)
    isPaused = fields.Boolean(required=True)


def _is_to_come(moment: datetime) -> None:
    if moment <= datetime.now(UTC):
        raise ValidationError("Must be in the future.")


class PauseSchema(Schema):
    """Until when a queue is paused (for ever, if not said), and why."""

    until = fields.AwareDateTime(validate=_is_to_come)
    reason = fields.String(load_default="", validate=validate.Length(max=200))


def blueprint() -> Blueprint:
    """Return the seed's routes below `/api/v1/queues`."""
    routes = Blueprint(
        "jobserver_queue_admin",
        __name__,
        url_prefix="/api/v1/queues",
        description="Queues, as their operators need them",
    )
    guard.protect(routes, role="viewer", seed=True)

    @routes.get("/stats")
    @routes.response(200, {"type": "object", "additionalProperties": QueueStatisticsSchema})
    def show_statistics() -> Response:
        """Count the jobs of every queue, by the queue's key."""
        states = current.server().statistics().values()
        return seeds.answer(
            {
                state.queue.public_key: {
                    "name": state.queue.public_name,
                    "counts": state.bull_counts,
                    "isPaused": state.pause is not None,
                }
                for state in states
            }
        )

    @routes.get("/<queue>/failed")
    @routes.arguments(seeds.RanksSchema, location="query")
    @routes.response(200, seeds.FailedJobSchema(many=True))
    def list_failed(ranks: dict[str, int], queue: str) -> Response:
        """List a queue's failed jobs, the newest first."""
        failed = current.server().failed(queue, **ranks)
        return seeds.answer([seeds.failed_job(job) for job in failed])

    @routes.post("/<queue>/jobs/<job_id>/retry")
    @routes.response(202, seeds.RetriedSchema)
    @routes.alt_response(409, "CONFLICT")
    @guard.needs("operator")
    @guard.operator_action("job.retry")
    def retry_job(queue: str, job_id: str) -> Response:
        """Let a failed job wait again."""
        job = current.server().retry(job_id, queue=queue)
        return seeds.done(f"Job {job.id} is queued again", status=202, jobId=job.id, retried=1)

    @routes.post("/<queue>/clean")
    @routes.arguments(seeds.GracePeriodSchema, required=False)
    @routes.response(200, seeds.RemovedSchema)
    @guard.needs("admin")
    def clean_queue(values: dict[str, float], queue: str) -> Response:
        """Remove the jobs that ended before the grace period."""
        server, hours = current.server(), values["gracePeriodHours"]
        with guard.operator_action("queue.clean") as action:
            removed = server.clean(
                queue, older_than=hours * HOUR, states=("completed", "failed", "canceled")
            )
            action.detail = f"{removed} jobs"
        name = server.registry.queue(queue).public_name
        message = f"Old jobs cleaned from queue {name} (grace period: {hours:g}h)"
        return seeds.done(message, removed=removed)

    @routes.post("/<queue>/pause")
    @routes.arguments(PauseSchema, required=False)
    @routes.response(200, seeds.DoneSchema)
    @guard.needs("operator")
    @guard.operator_action("queue.pause")
    def pause_queue(values: dict[str, Any], queue: str) -> Response:
        """Let nothing of a queue start; running jobs finish."""
        server = current.server()
        until: datetime | None = values.get("until")
        server.pause(queue, until=until.timestamp() if until else 0, reason=values["reason"])
        return seeds.done(f"Queue {server.registry.queue(queue).public_name} paused")

    @routes.post("/<queue>/resume")
    @routes.response(200, seeds.DoneSchema)
    @guard.needs("operator")
    @guard.operator_action("queue.resume")
    def resume_queue(queue: str) -> Response:
        """Let a paused queue go on."""
        server = current.server()
        server.resume(queue)
        return seeds.done(f"Queue {server.registry.queue(queue).public_name} resumed")

    return routes
