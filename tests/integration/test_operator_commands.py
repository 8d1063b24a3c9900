"""What operators see and mend with `flask jobs …`, and the record of what they did."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from flask import Flask
from redis import Redis

from jobserver import JobServer, ledger
from jobserver.broker import keys
from jobserver.ledger import actions
from jobserver.scheduler import Scheduler
from tests import ticking
from tests.acceptance.conftest import wait_until
from tests.hands import Hand


@pytest.fixture
def app(
    redis: Redis, valkey: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Flask]:
    """The ticking app with its tables, in which a lease lasts a second."""
    monkeypatch.setenv("REDIS_URL", valkey)
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{tmp_path / 'host.db'}")
    monkeypatch.setenv("LEASE_SECONDS", "1")
    app = ticking.create_app()
    with app.app_context():
        (engine,) = ledger.engines(app.extensions["jobserver"].db).values()
        ledger.migrate(engine)
        yield app
        engine.dispose()
    app.extensions["jobserver"].broker.connection.close()


@pytest.fixture
def server(app: Flask) -> JobServer:
    found: JobServer = app.extensions["jobserver"]
    return found


@pytest.fixture
def hand(server: JobServer) -> Hand:
    return Hand(server.broker, [server.registry.queue("clock")], lease=1)


def run(app: Flask, *arguments: str, code: int = 0) -> Result:
    result = app.test_cli_runner().invoke(args=["jobs", *arguments])
    assert result.exit_code == code, result.output
    return result


def parsed(app: Flask, *arguments: str, code: int = 0) -> Any:
    return json.loads(run(app, *arguments, "--json", code=code).stdout)


def recorded(server: JobServer) -> list[tuple[str, str, str, str]]:
    """The actions on record, the oldest first."""
    found = reversed(actions.find(server.db))
    return [(one.action, one.target, one.outcome, one.detail) for one in found]


def beat(server: JobServer, key: str, **options: Any) -> str:
    return server.enqueue("ticking.beat", {"hand": "hour"}, key=key, **options).id


def fail(hand: Hand, *, message: str = "no") -> None:
    hand.end(hand.take(), "failed", error_type="ValueError", error_message=message)


def test_stats_tell_queues_workers_and_schedulers(
    app: Flask, server: JobServer, hand: Hand
) -> None:
    said = run(app, "stats").output
    assert "No worker is registered." in said and "No scheduler is registered." in said
    beat(server, "failing")
    fail(hand)
    beat(server, "waits")
    beat(server, "later", delay=60)
    run(app, "pause", "clock", "--reason", "oil")
    Scheduler(server, name="one").heartbeat()
    head, row, total, *rest = run(app, "stats").output.splitlines()
    assert head.split() == [
        *("QUEUE", "WAITING", "ACTIVE", "DELAYED", "COMPLETED", "FAILED", "CANCELED"),
        *("OLDEST", "STATE"),
    ]
    assert re.fullmatch(r"clock +1 +0 +1 +0 +1 +0 +\d+ s +paused: oil", row)
    assert total.split() == ["(all)", "1", "0", "1", "0", "1", "0"]
    assert any(re.fullmatch(r"one +\d+ s ago", line) for line in rest)
    found = parsed(app, "stats")
    assert found["totals"] == found["queues"]["clock"]["counts"]
    assert found["queues"]["clock"]["pause"] == {"until": 0, "reason": "oil"}
    assert list(found["schedulers"]) == ["one"]
    run(app, "resume", "clock")
    assert recorded(server) == [
        ("queue.pause", "clock", "done", "oil"),
        ("queue.resume", "clock", "done", ""),
    ]


def test_a_queue_is_inspected_in_place_of_redis_cli(
    app: Flask, server: JobServer, hand: Hand, redis: Redis
) -> None:
    assert run(app, "inspect", "clock").output == "clock is empty.\n"
    for n in range(7):
        beat(server, f"job-{n}", priority="low")
    entry = hand.take().entry
    rows = [line.split(maxsplit=2) for line in run(app, "inspect", "CLOCK").output.splitlines()]
    assert rows[1] == ["rq:queue:clock:low", "6", "job-1, job-2, job-3, job-4, job-5"]
    assert [row[:2] for row in rows[2:]] == [
        ["jobserver:wake:clock", "7"],
        ["rq:wip:clock:low", "1"],
    ]
    assert rows[3][2].startswith(entry)
    assert parsed(app, "inspect", "clock")["rq:queue:clock:low"]["size"] == 6


def test_a_job_is_inspected_wherever_it_lies(app: Flask, server: JobServer, hand: Hand) -> None:
    beat(server, "waits", priority="high")
    found = parsed(app, "inspect", "waits")
    assert found["places"] == {"rq:queue:clock:high": 0}
    assert found["data"][1] == ["ticking.beat", {"hand": "hour"}]
    assert (found["lease"], found["held"], found["expires"]) == (None, None, None)
    hand.take()
    found = parsed(app, "inspect", "waits")
    assert list(found["places"]) == ["rq:wip:clock:high"]
    assert 0 <= found["lease"] <= 1.1
    assert hand.name in found["held"]
    (claim,) = hand.held.values()
    hand.end(claim, "failed", error_message="no\nway")
    shown = run(app, "inspect", "waits").output
    assert "error_message  no way" in shown
    assert "rq:failed:clock:high" in shown
    assert "attempt 1: failed" in shown and hand.name in shown
    missing = run(app, "inspect", "nothing", code=1)
    assert "'nothing'" in missing.output


def test_failed_jobs_are_listed_and_retried(app: Flask, server: JobServer, hand: Hand) -> None:
    assert "No job has failed" in run(app, "failed").output
    for name in ("a", "b", "c"):
        beat(server, name, attempts=1)
        fail(hand, message=f"{name} is\nbroken")
    rows = run(app, "failed", "--queue", "clock", "--limit", "2").output.splitlines()
    assert [line.split()[:4] for line in rows[1:3]] == [
        ["c", "clock", "ticking.beat", "1/1"],
        ["b", "clock", "ticking.beat", "1/1"],
    ]
    assert rows[1].endswith("c is broken")
    assert [job["error"] for job in parsed(app, "failed")][-1] == "a is\nbroken"
    assert run(app, "retry", "a").output == "a waits in clock\n"
    assert "only failed or canceled ones" in run(app, "retry", "a", code=1).output
    assert run(app, "retry", "--queue", "clock", "--all").output == "2 jobs wait in clock\n"
    for wrong in ((), ("--queue", "clock"), ("--all",), ("a", "--all")):
        assert "name a JOB, or give --queue QUEUE --all" in run(app, "retry", *wrong, code=2).output
    done, refused, everything = recorded(server)
    assert done == ("job.retry", "a", "done", "")
    assert refused[:3] == ("job.retry", "a", "failed")
    assert everything == ("queue.retry", "clock", "done", "2 jobs")


def test_recover_takes_back_what_a_lost_worker_held_and_nothing_else(
    app: Flask, server: JobServer, hand: Hand, redis: Redis
) -> None:
    beat(server, "lost", attempts=2)
    hand.take()
    beat(server, "lives")
    living = Hand(server.broker, hand.queues, lease=60)
    claim = living.take()
    # No process has looked for lost workers lately, so each gets the time of a lease to renew.
    redis.hset(f"{keys.OURS}recovery", "pass", 1)
    wait_until(lambda: redis.zcount(keys.LEASES, 0, time.time() * 1000 - 10))
    rests = run(app, "recover", "--wait", "0")
    assert rests.output == "1 leases have run out and rest for now: do it again\n"
    assert "lost was taken back: queued" in run(app, "recover").output
    assert server.fetch("lives").status == "active"
    assert living.end(claim) == "ok"
    assert run(app, "recover").output == "No job had to be taken back.\n"
    details = [detail for action, _, _, detail in recorded(server) if action == "jobs.recover"]
    assert details[1:] == [
        "1 taken back, 0 due, 0 cleared",
        "0 taken back, 0 due, 0 cleared",
    ]


def test_the_doctor_exits_with_1_for_errors_only(app: Flask, server: JobServer) -> None:
    names = {one["name"]: one["severity"] for one in parsed(app, "doctor", code=1)["findings"]}
    assert names == {"no-scheduler": "error", "queue-unserved": "warning"}
    shown = run(app, "doctor", code=1).output
    assert "error: No scheduler runs.  [no-scheduler]" in shown
    assert "2 findings, 1 of them errors." in shown
    Scheduler(server, name="one").heartbeat()
    assert "warning: No worker serves clock." in run(app, "doctor").output
