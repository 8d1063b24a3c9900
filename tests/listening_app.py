"""The engine's test app with listeners, which write to the journal of the jobs' runs."""

from __future__ import annotations

from flask import Flask, current_app

from jobserver import JobEvent, JobServer, on
from tests.engine_jobs import note


def create_app() -> Flask:
    """Return the app by the configuration in the environment."""
    app = Flask("listening_app")
    JobServer(app, jobs=["tests.engine_jobs", "tests.misbehaving_jobs", "tests.listening_app"])
    return app


@on("completed", "failed", "retry", "canceled", "stalled", "poison")
def listen(event: JobEvent) -> None:
    """Write down what was told."""
    assert current_app.name == "listening_app"
    note(f"{event.name} {event.job_id} {event.attempt} {event.error_type}".rstrip())


@on("failed")
def break_down(event: JobEvent) -> None:
    """Harm nobody."""
    raise SystemExit("a listener is upset")
