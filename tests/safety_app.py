"""The app of the tests that kill workers; FAULT in the environment says where one kills itself."""

from __future__ import annotations

import os

from flask import Flask

from jobserver import JobServer
from jobserver.scheduler import housekeeping
from jobserver.worker import dispatcher
from tests import faults


def create_app() -> Flask:
    """Return the app by the configuration in the environment."""
    dispatcher.SWEEP = housekeeping.MINUTE = 0.5  # no test waits a minute
    if fault := os.environ.get("FAULT"):
        faults.install(fault)
    app = Flask("safety_app")
    JobServer(app, jobs=["tests.safety_jobs"])
    return app
