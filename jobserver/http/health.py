"""`/health`: whether this process and what it needs are well; open to all, so in numbers only."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

from flask import Blueprint, Response

from jobserver import current, payload
from jobserver.broker import metrics
from jobserver.broker.entries import Entries
from jobserver.doctor import processes
from jobserver.errors import RedisUnavailable
from jobserver.http import guard
from jobserver.server import Server

MEDIA_TYPE = "application/health+json"  # draft-inadarei-api-health-check-06

logger = logging.getLogger(__name__)


def blueprint() -> Blueprint:
    """Return the routes below `/health`."""
    routes = Blueprint("jobserver_health", __name__, url_prefix="/health")
    guard.protect(routes, role=None)
    started = time.monotonic()

    @routes.get("")
    def health() -> Response:
        """Answer S2's shape: 200 "OK", or 503 "ERROR" when the database or Redis is down."""
        server = current.server()
        database = _timed(lambda: _ping_database(server))
        redis = _timed(server.broker.ping)
        is_well = database["ok"] and redis["ok"]
        body = {
            "status": "OK" if is_well else "ERROR",
            "timestamp": _now(),
            "uptime": round(time.monotonic() - started, 3),
            "database": _connected(database),
            "redis": _connected(redis),
            "jobs": {"initialized": redis["ok"] and _is_scheduling(server)},
        }
        return _answer(body, status=200 if is_well else 503, media_type="application/json")

    @routes.get("/live")
    def live() -> Response:
        """Answer that the process serves requests, whatever it needs."""
        return _answer({"status": "pass"}, status=200)

    @routes.get("/ready")
    def ready() -> Response:
        """Answer whether requests that need Redis and SQL can be served now.

        Nobody to run jobs is a warning: requests are served all the same. `flask jobs doctor`
        tells more.
        """
        server = current.server()
        checks = {
            "redis:responseTime": _response_time(_timed(server.broker.ping)),
            "database:responseTime": _response_time(_timed(lambda: _ping_database(server))),
        }
        if checks["redis:responseTime"]["status"] == "pass":
            checks |= _processes(server)
        found = {check["status"] for check in checks.values()}
        status = next(word for word in ("fail", "warn", "pass") if word in found)
        body = {"status": status, "checks": {name: [check] for name, check in checks.items()}}
        return _answer(body, status=503 if status == "fail" else 200)

    return routes


def _ping_database(server: Server) -> None:
    db: Any = server.db
    if db is not None:  # without one the engine needs none
        with db.engine.connect() as connection:
            connection.exec_driver_sql("SELECT 1")


def _is_scheduling(server: Server) -> bool:
    """Tell whether the declared entries are registered and a scheduler is alive to serve them."""
    try:
        found = metrics.read(server.broker, [])
        known = Entries(server.broker).ids()
    except RedisUnavailable:
        return False
    return processes.has_scheduler(found) and known >= set(server.registry.entries)


def _processes(server: Server) -> dict[str, dict[str, Any]]:
    try:
        found = metrics.read(server.broker, list(server.registry.queues.values()))
    except RedisUnavailable:
        return {}
    return dict(_vital_signs(found))


def _vital_signs(found: metrics.Metrics) -> Iterator[tuple[str, dict[str, Any]]]:
    yield "workers:count", _sign(found.workers, unit="processes", is_well=found.workers > 0)
    silence = None if found.silence is None else round(found.silence, 1)
    is_served = processes.has_scheduler(found)
    yield "scheduler:heartbeatAge", _sign(silence, unit="s", is_well=is_served)
    for queue in found.queues:
        is_well = queue.workers > 0 or not queue.waited
        sign = _sign(round(queue.waited, 1), unit="s", is_well=is_well)
        yield f"queue:{queue.state.queue.name}:oldestAge", sign


def _timed(ping: Callable[[], object]) -> dict[str, Any]:
    started = time.perf_counter()
    try:
        ping()
    except Exception as error:  # whatever a driver raises, the answer is the same: not well
        logger.warning("health check failed: %s: %s", type(error).__name__, error)
        return {"ok": False, "ms": None}
    return {"ok": True, "ms": round((time.perf_counter() - started) * 1000, 2)}


def _connected(timed: dict[str, Any]) -> dict[str, Any]:
    return {"status": "connected" if timed["ok"] else "disconnected", "responseTime": timed["ms"]}


def _response_time(timed: dict[str, Any]) -> dict[str, Any]:
    return {
        "componentType": "datastore",
        "observedValue": timed["ms"],
        "observedUnit": "ms",
        "status": "pass" if timed["ok"] else "fail",
        "time": _now(),
    }


def _sign(value: float | None, *, unit: str, is_well: bool) -> dict[str, Any]:
    return {
        "componentType": "component",
        "observedValue": value,
        "observedUnit": unit,
        "status": "pass" if is_well else "warn",
        "time": _now(),
    }


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _answer(body: dict[str, Any], *, status: int, media_type: str = MEDIA_TYPE) -> Response:
    response = Response(payload.dumps(body), status, content_type=media_type)
    response.headers["Cache-Control"] = "no-store"
    return response
