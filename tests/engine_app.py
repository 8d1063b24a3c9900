"""A small host app that carries the engine's test jobs."""

from __future__ import annotations

import os

from flask import Flask

from jobserver import JobServer
from tests import faults


def create_app() -> Flask:
    """Return the app by the configuration in the environment."""
    if fault := os.environ.get("FAULT"):
        faults.install(fault)
    app = Flask("engine_app")
    JobServer(app, jobs=["tests.engine_jobs", "tests.misbehaving_jobs", "tests.limited_jobs"])
    return app
