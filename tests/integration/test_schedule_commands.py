"""`flask jobs schedules …` as an operator types it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest
from click.testing import Result
from flask import Flask
from redis import Redis

from jobserver import JobServer, ledger
from jobserver.ledger import actions
from jobserver.scheduler import Scheduler
from tests import ticking

NIGHTLY = ("nightly", "ticking.beat", '{"hand": "hour"}')


@pytest.fixture
def app(
    redis: Redis, valkey: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Flask]:
    """The ticking app, its tables, and its declared schedules."""
    monkeypatch.setenv("REDIS_URL", valkey)
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{tmp_path / 'host.db'}")
    app = ticking.create_app()
    with app.app_context():
        server: JobServer = app.extensions["jobserver"]
        (engine,) = ledger.engines(server.db).values()
        ledger.migrate(engine)
        server.schedules.entries.declare(Scheduler(server).declared(), prune=True)
        yield app
        engine.dispose()
    server.broker.connection.close()


def run(app: Flask, *arguments: str, code: int = 0) -> Result:
    result = app.test_cli_runner().invoke(args=["jobs", "schedules", *arguments])
    assert result.exit_code == code, result.output
    return result


def listed(app: Flask) -> dict[str, list[str]]:
    """Return the words of each row of the list by the schedule's id."""
    head, *rows = run(app, "list").output.splitlines()
    assert head.split() == ["ID", "TYPE", "WHEN", "NEXT", "STATE", "MADE", "SKIPPED", "MISSED"]
    return {row.split()[0]: row.split() for row in rows}


def test_a_schedule_is_made_listed_changed_and_removed(app: Flask) -> None:
    made = run(app, "put", *NIGHTLY, "--cron", "30 2 * * mon", "--tz", "Asia/Tokyo", "--paused")
    assert made.output.startswith("nightly is made; it is due 20")
    rows = listed(app)
    assert set(rows) == {"nightly", "second", "minute"}
    assert rows["nightly"][2:8] == ["30", "2", "*", "*", "mon", "Asia/Tokyo"]
    assert rows["nightly"][-4:] == ["paused", "0", "0", "0"]
    assert rows["second"][2:4] == ["every", "1s"]
    assert rows["minute"][2:4] == ["every", "1m"]

    assert run(app, "put", *NIGHTLY, "--every", "1.5h", "--jitter", "30s").output.startswith(
        "nightly is changed"
    )
    shown = json.loads(run(app, "show", "nightly").output)
    assert (shown["seconds"], shown["jitter"], shown["origin"]) == (5400, 30, "api")
    assert (shown["state"], shown["payload"]) == ("paused", {"hand": "hour"})
    assert {one["id"] for one in json.loads(run(app, "list", "--json").output)} == set(rows)
    assert run(app, "delete", "nightly").output == "nightly is removed\n"
    assert set(listed(app)) == {"second", "minute"}


def test_a_schedule_is_triggered_paused_and_resumed_and_shows_its_runs(app: Flask) -> None:
    run(app, "put", *NIGHTLY, "--every", "1d")
    job_id, _, queue = run(app, "trigger", "nightly").output.partition(" waits in ")
    assert queue == "clock\n"
    assert run(app, "pause", "nightly").output == "nightly is paused\n"
    assert listed(app)["nightly"][-4] == "paused"
    assert run(app, "resume", "nightly").output.startswith("nightly goes on; it is due 20")
    assert job_id in run(app, "trigger", "nightly", code=1).output
    _, skipped, made = run(app, "runs", "nightly").output.splitlines()
    assert skipped.split()[2] == "skipped"
    assert made.split()[2:] == ["triggered", "1", job_id, "waiting"]
    assert json.loads(run(app, "runs", "nightly", "--json").output)[1]["job"] == job_id
    assert "not been due" in run(app, "runs", "minute").output

    done = actions.find(app.extensions["jobserver"].db, limit=9)
    assert [(one.action, one.target, one.outcome) for one in reversed(done)] == [
        ("schedule.put", "nightly", "done"),
        ("schedule.trigger", "nightly", "done"),
        ("schedule.pause", "nightly", "done"),
        ("schedule.resume", "nightly", "done"),
        ("schedule.trigger", "nightly", "failed"),
    ]
    assert done[3].detail == job_id


def test_a_preview_names_weekday_and_offset(app: Flask) -> None:
    lines = run(app, "preview", "0 9 * * fri", "--tz", "America/New_York", "-n", "60").output
    times = [line.split() for line in lines.splitlines()]
    assert len(times) == 60
    assert {day for day, _ in times} == {"Fri"}
    assert {time[10:] for _, time in times} == {"T09:00:00-04:00", "T09:00:00-05:00"}
    moments = [datetime.fromisoformat(time) for _, time in times]
    assert moments == sorted(moments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("put", *NIGHTLY), "#/cron"),
        (("put", *NIGHTLY, "--cron", "99 * * * *"), "the minute '99'"),
        (("put", *NIGHTLY, "--every", "soon"), "20m"),
        (("put", *NIGHTLY, "--every", "1h", "--start", "2030-01-01"), "+01:00"),
        (("put", "x", "ticking.bat", "--every", "1h"), "did you mean 'ticking.beat'"),
        (("put", "x", "ticking.beat", "--every", "1h"), "#/payload/hand"),
        (("put", "x", "ticking.beat", "{", "--every", "1h"), "is no JSON"),
        (("put", "second", "ticking.beat", '{"hand": "x"}', "--every", "1h"), "change it there"),
        (("delete", "second"), "declared in code"),
        (("show", "third"), "'third'"),
        (("preview", "@dayly"), "@daily"),
        (("preview", "@daily", "--tz", "Mars"), "'Mars' is no time zone"),
    ],
)
def test_a_mistake_ends_with_one_clear_line(
    app: Flask, arguments: tuple[str, ...], message: str
) -> None:
    result = app.test_cli_runner().invoke(args=["jobs", "schedules", *arguments])
    assert result.exit_code != 0
    assert message in result.output.splitlines()[-1]
