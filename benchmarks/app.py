"""The app of the benchmarks: a bare Flask app with the timed jobs."""

from __future__ import annotations

from flask import Flask

from jobserver import JobServer


def create_app() -> Flask:
    """Return the app by the configuration in the environment."""
    app = Flask("benchmarks")
    JobServer(app, jobs=["benchmarks.tasks"])
    return app
