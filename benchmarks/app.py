"""The app of the benchmarks: a bare Flask app with the timed jobs."""

from __future__ import annotations

import os

from flask import Flask
from sqlalchemy import create_engine

from jobserver import JobServer, Queue

OTHERS = 12  # queues beside the two that are timed


def create_app() -> Flask:
    """Return the app by the configuration in the environment."""
    app = Flask("benchmarks")
    ledger = os.environ.get("BENCH_LEDGER")
    server = JobServer(app, jobs=["benchmarks.tasks"], db=create_engine(ledger) if ledger else None)
    for number in range(OTHERS):
        server.registry.add_queue(Queue(f"other-{number}", executor="thread"))

    @app.get("/bare")
    def bare() -> bytes:
        """Answer what one GET brings: what polls are measured against."""
        found: bytes = server.broker.connection.get("bare") or b""
        return found

    return app
