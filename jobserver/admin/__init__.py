"""The pages that people look at: sign-in, and rq-dashboard behind it."""

from __future__ import annotations

from flask import Flask

from jobserver.admin import dashboard, sign_in
from jobserver.admin.pages import csrf_token, protect

__all__ = ["csrf_token", "protect", "register"]


def register(app: Flask, *, url_prefix: str = "") -> None:
    """Add the pages to an app, below a prefix of its choice."""
    app.register_blueprint(sign_in.blueprint(), url_prefix=url_prefix or None)
    app.register_blueprint(dashboard.blueprint(), url_prefix=f"{url_prefix}/rq")
