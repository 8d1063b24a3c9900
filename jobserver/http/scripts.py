"""`/api/v1/static/pollJob.js`: what pages follow a job with; open to all."""

from __future__ import annotations

from flask import Blueprint

from jobserver.http import cors


def blueprint() -> Blueprint:
    """Return the route of the scripts for browsers."""
    routes = Blueprint(
        "jobserver_scripts", __name__, static_folder="static", static_url_path="/api/v1/static"
    )
    cors.install(routes)
    return routes
