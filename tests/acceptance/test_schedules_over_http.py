"""Schedules made over HTTP, served by a scheduler process and run by a worker."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from redis import Redis

from jobserver import ledger
from tests import ticking
from tests.acceptance.conftest import wait_until
from tests.nest import Hatched, Nest

URL = "/api/v1/schedules"
TOKEN = "the-token-of-the-tests"

Start = Callable[..., Hatched]


@pytest.fixture
def client(
    redis: Redis, valkey: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[FlaskClient]:
    """The administrator of the ticking app; programs that the test starts inherit its settings."""
    monkeypatch.setenv("REDIS_URL", valkey)
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{tmp_path / 'host.db'}")
    monkeypatch.setenv("JOBSERVER_INSTANCE", str(tmp_path))
    monkeypatch.setenv("JOBSERVER_ADMIN_TOKEN", TOKEN)
    app = ticking.create_app()
    with app.app_context():
        (engine,) = ledger.engines(app.extensions["jobserver"].db).values()
        ledger.migrate(engine)
        client = app.test_client()
        client.environ_base["HTTP_AUTHORIZATION"] = f"Bearer {TOKEN}"
        yield client
        engine.dispose()
    app.extensions["jobserver"].broker.connection.close()


@pytest.fixture
def start(nest: Nest, client: FlaskClient, tmp_path: Path) -> Start:
    """Return a function that starts `flask jobs` with arguments; all end with the test."""
    numbers = count()

    def start(*arguments: str) -> Hatched:
        command = ("flask", "--app", "tests.ticking", "jobs", *arguments)
        return nest.start(*command, log=tmp_path / f"log-{next(numbers)}")

    return start


def test_a_schedule_runs_as_it_is_told_whatever_becomes_of_its_scheduler(
    client: FlaskClient, start: Start
) -> None:
    start("worker")
    doomed = start("scheduler")
    served = "?origin=registry"
    wait_until(lambda: len(items(client, served)) == 2, seconds=60, what="the scheduler serves")
    # Its first time comes long before the scheduler would look again by itself.
    order = {"type": "ticking.beat", "payload": {"hand": "pulse"}, "cron": "* * * * * *"}
    assert client.put(f"{URL}/pulse", json=order).status_code == 201
    wait_until(lambda: len(completed(client)) >= 2, seconds=60, what="two runs have completed")

    doomed.kill()
    doomed.wait()
    more = len(completed(client)) + 2
    start("scheduler")
    wait_until(lambda: len(completed(client)) >= more, seconds=60, what="another one goes on")

    assert client.post(f"{URL}/pulse/pause").get_json()["state"] == "paused"
    paused = client.get(f"{URL}/pulse").get_json()
    triggered = client.post(f"{URL}/pulse/trigger").get_json()["id"]
    wait_until(lambda: triggered in completed(client), what="the job made by hand has completed")
    missed = datetime.fromisoformat(paused["nextAt"]).timestamp() + 2
    wait_until(lambda: datetime.now(UTC).timestamp() > missed, what="times have passed")
    assert client.get(f"{URL}/pulse").get_json()["made"] == paused["made"]

    assert client.post(f"{URL}/pulse/resume").status_code == 200
    wait_until(lambda: client.get(f"{URL}/pulse").get_json()["made"] > paused["made"])
    runs = items(client, "/pulse/runs")
    assert any(run["outcome"] == "missed" for run in runs)
    made = [run for run in runs if run["outcome"] == "made"]
    for run in made:
        assert run["jobId"] == f"pulse-{datetime.fromisoformat(run['at']).timestamp():.0f}"
    assert len({run["at"] for run in made}) == len(made)

    assert client.delete(f"{URL}/pulse").status_code == 204
    assert client.get(f"{URL}/pulse").status_code == 404
    assert client.get(f"/api/v1/jobs/{triggered}").get_json()["result"] == "pulse"


def items(client: FlaskClient, path: str) -> list[dict[str, Any]]:
    response = client.get(f"{URL}{path}")
    assert response.status_code == 200, response.text
    found: list[dict[str, Any]] = response.get_json()["items"]
    return found


def completed(client: FlaskClient) -> set[str]:
    """Return the jobs of the last twenty times that have completed."""
    runs = items(client, "/pulse/runs")
    return {run["jobId"] for run in runs if run["job"] and run["job"]["status"] == "completed"}
