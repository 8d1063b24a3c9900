"""`/health`: whether this process and what it needs are well; open to all, so it says no more."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from flask import Blueprint, Response

from jobserver import current, payload
from jobserver.broker.entries import Entries
from jobserver.errors import RedisUnavailable
from jobserver.http import guard
from jobserver.server import Server

BEAT_SECONDS = 30.0  # a scheduler beats each second; the clocks of two hosts may differ a little
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
        """Answer whether requests that need Redis and SQL can be served now."""
        server = current.server()
        checks = {
            "redis:responseTime": _timed(server.broker.ping),
            "database:responseTime": _timed(lambda: _ping_database(server)),
        }
        is_well = all(check["ok"] for check in checks.values())
        body = {
            "status": "pass" if is_well else "fail",
            "checks": {name: [_check(timed)] for name, timed in checks.items()},
        }
        return _answer(body, status=200 if is_well else 503)

    return routes


def _ping_database(server: Server) -> None:
    db: Any = server.db
    if db is not None:  # without one the engine needs none
        with db.engine.connect() as connection:
            connection.exec_driver_sql("SELECT 1")


def _is_scheduling(server: Server) -> bool:
    """Tell whether the declared entries are registered and a scheduler is alive to serve them."""
    entries = Entries(server.broker)
    try:
        beats = entries.schedulers().values()
        known = {entry.id for entry, _ in entries.all()}
    except RedisUnavailable:
        return False
    is_served = any(time.time() - beat < BEAT_SECONDS for beat in beats)
    return is_served and known >= set(server.registry.entries)


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


def _check(timed: dict[str, Any]) -> dict[str, Any]:
    return {
        "componentType": "datastore",
        "observedValue": timed["ms"],
        "observedUnit": "ms",
        "status": "pass" if timed["ok"] else "fail",
        "time": _now(),
    }


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _answer(body: dict[str, Any], *, status: int, media_type: str = MEDIA_TYPE) -> Response:
    response = Response(payload.dumps(body), status, content_type=media_type)
    response.headers["Cache-Control"] = "no-store"
    return response
