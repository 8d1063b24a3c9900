"""The HTTP API: one module per prefix, thin over the server's verbs."""

from __future__ import annotations

from flask import Flask

from jobserver.http import (
    audit,
    dead_letters_v1,
    docs,
    event_stream,
    guard,
    health,
    jobs_v1,
    metrics,
    monitoring,
    openapi,
    polling,
    queue_admin,
    queues_v1,
    runs_v1,
    schedules_v1,
    scripts,
    series_v1,
    types_v1,
    workers_v1,
)
from jobserver.http.guard import needs, operator_action, principal, protect
from jobserver.http.idempotency import idempotent

__all__ = ["docs", "idempotent", "needs", "operator_action", "principal", "protect", "register"]

MODULES = (
    audit,
    dead_letters_v1,
    event_stream,
    health,
    jobs_v1,
    metrics,
    monitoring,
    openapi,
    polling,
    queue_admin,
    queues_v1,
    runs_v1,
    schedules_v1,
    scripts,
    series_v1,
    types_v1,
    workers_v1,
)


def register(app: Flask, *, url_prefix: str = "") -> None:
    """Add the engine's API routes to an app, below a prefix of its choice."""
    guard.install(app)
    app.url_map.converters[monitoring.QUEUE_NAME] = monitoring.QueueNameConverter
    for module in MODULES:
        blueprint = module.blueprint()
        app.register_blueprint(blueprint, url_prefix=f"{url_prefix}{blueprint.url_prefix or ''}")
