"""The engine's test app as a careless host serves it: behind a ProxyFix that believes anybody."""

from __future__ import annotations

from flask import Flask
from werkzeug.middleware.proxy_fix import ProxyFix

from tests.engine_app import create_app as create_engine_app


def create_app() -> Flask:
    """Return the app."""
    app = create_engine_app()
    app.wsgi_app = ProxyFix(app.wsgi_app)  # type: ignore[method-assign]
    return app
