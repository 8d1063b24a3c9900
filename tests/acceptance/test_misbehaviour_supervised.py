"""Jobs in threads that take their worker with them, under the supervisor of `make run`."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis
from rq.job import Job as RQJob
from rq.serializers import JSONSerializer

from jobserver import JobServer, fixed
from jobserver.broker import keys
from tests.acceptance.conftest import ROOT, ended, installed, wait_until
from tests.acceptance.test_make_run import System

WORKERS = 4
# What one does; `kill` is what the kernel does when memory is out.
FATAL = ("exit-0", "segfault", "kill", "hold-the-gil")
# What the supervisor says of workers that are not to end so: of the watchdog's end, and of one with
# a stuck thread, too.
ENDS = ("SIGSEGV", "SIGKILL", "exit status 1", "exit status 3")
RECOVERED = 30  # seconds from a loss to its recovery
REPLACED = 60  # seconds until a worker is there again


@pytest.fixture
def system(redis: Redis, valkey: str, tmp_path: Path) -> Iterator[System]:
    """The engine's test app under the project's own supervisor, with four workers of one thread."""
    system = System(tmp_path)
    plan = tmp_path / "supervisord.conf"
    text = plan.read_text()
    plan.unlink()
    # The test app has no database of its own to prepare.
    plan.write_text(text.replace("prepare = flask prepare\n", ""))
    (tmp_path / "wsgi.py").unlink()
    (tmp_path / "wsgi.py").write_text(
        "from tests.engine_app import create_app\napp = create_app()\n"
    )
    system.start(
        REDIS_URL=valkey,
        PYTHONPATH=f"{tmp_path}{os.pathsep}{ROOT}",
        JOURNAL=str(tmp_path / "journal"),
        LEASE_SECONDS="1",
        DRAIN_SECONDS="0.5",
        WORKER_INSTANCES=str(WORKERS),
        WORKER_CONCURRENCY="1",
        WORKER_PROCESSES="1",
    )
    yield system
    system.kill()


@pytest.fixture
def server(system: System, valkey: str, tmp_path: Path) -> Iterator[JobServer]:
    with installed(valkey, tmp_path) as server:
        yield server


@pytest.mark.parametrize("frozen", [2, pytest.param(20, marks=pytest.mark.soak)])
def test_whatever_ends_a_worker_is_recovered_and_the_worker_replaced(
    system: System, server: JobServer, redis: Redis, frozen: int
) -> None:
    # Each frozen worker takes eleven seconds: in the short version it is the attempts that run out.
    attempts = dict.fromkeys(FATAL, 20) | {"hold-the-gil": frozen}
    kind = "misbehaving_jobs.misbehave_in_thread"
    fatal = {
        how: server.enqueue(kind, {"how": how}, attempts=most, backoff=fixed(0), timeout=60)
        for how, most in attempts.items()
    }
    stuck = server.enqueue(kind, {"how": "swallow"})
    innocent = server.enqueue_many("engine_jobs.add", [{"a": n} for n in range(20)])
    everything = [*fatal.values(), stuck, *innocent]
    wait_until(lambda: ended(server, everything), seconds=80, what="all come to an end")
    for how, job in fatal.items():
        found = server.fetch(job.id)
        error_type, losses = ("WorkerLost", 2) if attempts[how] == 2 else ("Poison", 3)
        assert (found.status, found.error_type, found.attempt) == ("failed", error_type, losses)
        assert found.error_message == "worker lost"
        theirs = RQJob.fetch(job.id, connection=redis, serializer=JSONSerializer)
        assert [result.exc_string for result in theirs.results()] == ["worker lost"] * losses
    assert {server.fetch(job.id).status for job in innocent} == {"completed"}
    assert server.fetch(stuck.id).error_type == "JobTimeout"
    assert max(recoveries(redis)) < RECOVERED
    wait_until(lambda: said(system, *ENDS), seconds=REPLACED, what="all are seen")
    meeting = server.enqueue_many("misbehaving_jobs.meet_in_thread", [{"count": WORKERS}] * WORKERS)
    wait_until(lambda: ended(server, meeting), seconds=REPLACED, what="all workers are back")
    assert "in hold_the_gil" in system.log.read_text(), "a frozen worker says where it stood"


def said(system: System, *words: str) -> bool:
    """Return whether the supervisor has told of workers that ended in each of these ways."""
    lines = [line for line in system.log.read_text().splitlines() if " exited: worker-" in line]
    return all(any(word in line for line in lines) for word in words)


def recoveries(redis: Redis) -> list[float]:
    """Return the seconds from each claim that was lost to its recovery."""
    claimed: dict[bytes, int] = {}
    found: defaultdict[bytes, list[float]] = defaultdict(list)
    for at, event in redis.xrange(keys.EVENTS):
        milliseconds = int(at.split(b"-")[0])
        if event[b"event"] == b"claimed":
            claimed[event[b"job"]] = milliseconds
        if event[b"event"] == b"stalled":
            found[event[b"job"]].append((milliseconds - claimed[event[b"job"]]) / 1000)
    assert len(found) >= len(FATAL)
    return [seconds for times in found.values() for seconds in times]
