"""Real worker processes on a real Valkey, for tests that kill them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from redis import Redis

from jobserver import JobServer
from jobserver.broker import Broker, Job, connect
from tests.engine_app import create_app
from tests.fleet import Fleet
from tests.nest import Hatched, Nest

ROOT = Path(__file__).parents[2]

StartWorker = Callable[..., Hatched]


def wait_until(condition: Callable[[], object], *, seconds: float = 20, what: str = "") -> None:
    """Return as soon as the condition holds; fail after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what or condition}"
        time.sleep(0.01)


def ended(server: JobServer, jobs: list[Job]) -> bool:
    """Return whether all jobs have ended."""
    return all(server.fetch(job.id).is_ended for job in jobs)


@contextmanager
def installed(valkey: str, directory: Path) -> Iterator[JobServer]:
    """Make the engine's test app on a Valkey, in the environment that workers inherit."""
    settings = {
        "REDIS_URL": valkey,
        "JOBSERVER_APP": "tests.engine_app:create_app",
        "JOBSERVER_INSTANCE": str(directory),
        "JOURNAL": str(directory / "journal"),
        "RQ_WORKER_CLASS": "jobserver.worker.Worker",
        "RQ_CONNECTION_CLASS": "jobserver.broker.Connection",
        "PYTHONPATH": str(ROOT),
        "LEASE_SECONDS": "3",
    }
    with pytest.MonkeyPatch.context() as monkeypatch:
        for name, value in settings.items():
            monkeypatch.setenv(name, value)
        app = create_app()
        with app.app_context():
            yield app.extensions["jobserver"]
        app.extensions["jobserver"].broker.connection.close()


@pytest.fixture(scope="session")
def all_tests_nest() -> Iterator[Nest]:
    """A nest for all tests of this process."""
    with Nest() as nest:
        yield nest


@pytest.fixture
def nest(all_tests_nest: Nest) -> Iterator[Nest]:
    """A nest; what hatches in it ends with the test."""
    yield all_tests_nest
    all_tests_nest.clear()


@contextmanager
def workers(nest: Nest, directory: Path) -> Iterator[StartWorker]:
    """Make a function that starts `rq worker` with arguments; all end with the context."""
    started: list[Hatched] = []

    def start(*arguments: str, **settings: str) -> Hatched:
        log = directory / f"worker-{len(started)}.log"
        started.append(nest.start("rq", "worker", *arguments, log=log, **settings))
        return started[-1]

    try:
        yield start
    finally:
        for worker in started:
            worker.end()


@pytest.fixture
def server(redis: Redis, valkey: str, tmp_path: Path) -> Iterator[JobServer]:
    """The engine's test app on an empty Valkey."""
    with installed(valkey, tmp_path) as server:
        yield server


@pytest.fixture
def start_worker(server: JobServer, nest: Nest, tmp_path: Path) -> Iterator[StartWorker]:
    """Return a function that starts `rq worker` with arguments; all end with the test."""
    with workers(nest, tmp_path) as start:
        yield start


@pytest.fixture
def broker(valkey: str) -> Iterator[Broker]:
    """A broker for another thread to enqueue with."""
    broker = Broker(connect(valkey))
    yield broker
    broker.connection.close()


@pytest.fixture
def readers(redis: Redis, valkey: str, tmp_path: Path) -> Iterator[Path]:
    """Start eight readers of RQ's registries; yield a file that grows with what they have read."""
    rounds = tmp_path / "rounds"
    rounds.touch()
    settings = {**os.environ, "ROUNDS": str(rounds), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tests.readers", valkey]
    process = subprocess.Popen(command, cwd=ROOT, env=settings, start_new_session=True)
    yield rounds
    assert process.poll() is None, "no reader has met an error"
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.fixture
def fleet(server: JobServer, nest: Nest, redis: Redis, tmp_path: Path) -> Fleet:
    """A fleet of workers, none yet, for the jobs of tests.load."""
    settings = {
        "JOBSERVER_APP": "tests.safety_app:create_app",
        "WORKER_CONCURRENCY": "4",
        "WORKER_PROCESSES": "2",
        "DRAIN_SECONDS": "1",
    }
    return Fleet(nest, redis, tmp_path / "workers.log", settings)
