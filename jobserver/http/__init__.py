"""The HTTP API: one module per prefix, thin over the server's verbs."""

from __future__ import annotations

from flask import Flask

from jobserver.http import (
    event_stream,
    guard,
    health,
    monitoring,
    openapi,
    polling,
    queue_admin,
)
from jobserver.http.guard import needs, operator_action, principal, protect
from jobserver.http.idempotency import idempotent

__all__ = ["idempotent", "needs", "operator_action", "principal", "protect", "register"]

MODULES = (
    event_stream,
    health,
    monitoring,
    openapi,
    polling,
    queue_admin,
)


def register(app: Flask, *, url_prefix: str = "") -> None:
    """Add the engine's API routes to an app, below a prefix of its choice."""
    guard.install(app)
    for module in MODULES:
        blueprint = module.blueprint()
        app.register_blueprint(blueprint, url_prefix=f"{url_prefix}{blueprint.url_prefix or ''}")
