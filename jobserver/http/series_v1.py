"""`/api/v1/queues/<queue>/series`: how a queue did, minute by minute, for charts."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from flask import Response
from marshmallow import Schema, fields, validate

from jobserver import current, payload
from jobserver.http import guard
from jobserver.http.blueprint import Blueprint
from jobserver.ledger import series
from jobserver.ledger.series import Point


class MinutesSchema(Schema):
    """How far back to look."""

    minutes = fields.Integer(
        load_default=60,
        validate=validate.Range(1, series.KEPT_MINUTES),
        metadata={"description": "how many minutes up to now"},
    )


class QuantilesSchema(Schema):
    """Estimates within buckets of a histogram; null when nothing ended. Never beyond an hour."""

    p50 = fields.Float(required=True, allow_none=True)
    p95 = fields.Float(required=True, allow_none=True)


class PointSchema(Schema):
    """One minute: jobs that ended in it, and how many seconds they had waited and ran."""

    at = fields.AwareDateTime(required=True)
    completed = fields.Integer(required=True)
    failed = fields.Integer(required=True)
    wait = fields.Nested(QuantilesSchema, required=True)
    run = fields.Nested(QuantilesSchema, required=True)


class SeriesSchema(Schema):
    """A queue's minutes, the oldest first; the last one is still running."""

    queue = fields.String(required=True)
    items = fields.List(fields.Nested(PointSchema), required=True)


def blueprint() -> Blueprint:
    """Return the route below `/api/v1/queues`."""
    routes = Blueprint(
        "jobserver_series_v1",
        __name__,
        url_prefix="/api/v1/queues",
        description="How queues did, minute by minute",
    )
    guard.protect(routes, role="viewer")

    @routes.get("/<queue>/series")
    @routes.arguments(MinutesSchema, location="query")
    @routes.response(200, SeriesSchema)
    def show_series(asked: dict[str, int], queue: str) -> Response:
        """Count a queue's ended jobs per minute, up to two days back, with p50 and p95 of waits
        and runs; a minute in which nothing ended counts 0.

        Waits are of the first attempt, runs of the last. A job is in the minute in which it ended.
        """
        server = current.server()
        name = server.registry.queue(queue).name
        points = series.points(server.db, name, minutes=asked["minutes"], now=datetime.now(UTC))
        body = {"queue": name, "items": [_body(point) for point in points]}
        return Response(payload.dumps(body), content_type="application/json")

    return routes


def _body(point: Point) -> dict[str, Any]:
    return {
        "at": point.at,
        "completed": point.completed,
        "failed": point.failed,
        "wait": {"p50": point.wait.quantile(0.5), "p95": point.wait.quantile(0.95)},
        "run": {"p50": point.run.quantile(0.5), "p95": point.run.quantile(0.95)},
    }
