"""User sync by a real worker, killed in the middle, on both databases."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from flask import Flask
from sqlalchemy import func, select

from jobs.records import SyncRun, User, db
from jobs.settings import Settings
from jobs.users.jobs import sync
from jobserver import current, steps
from jobserver.scheduler import Scheduler
from jobserver.testing import work
from tests.acceptance.conftest import ROOT, wait_until
from tests.sandbox import Sandbox

USERS = 2000
BATCHES = USERS // 100


StartWorker = Callable[[], "subprocess.Popen[bytes]"]


@pytest.fixture
def start_worker(app: Flask, tmp_path: Path) -> Iterator[StartWorker]:
    """Return a function that starts a worker of user-sync in the application of this test."""
    settings: Settings = app.extensions["jobserver"].config
    environ = {
        **os.environ,
        "REDIS_URL": settings.redis_url,
        "DATABASE_URL": settings.database_url,
        "DIRECTORY_URL": str(settings.directory_url),
        "DIRECTORY_TOKEN": settings.directory_token,
        "JOBSERVER_INSTANCE": str(settings.instance_path),
        "PYTHONPATH": str(ROOT),
        "RQ_WORKER_CLASS": "jobserver.worker.Worker",
        "RQ_CONNECTION_CLASS": "jobserver.broker.Connection",
        "LEASE_SECONDS": "1",
    }
    command = [str(Path(sys.executable).parent / "rq"), "worker", "user-sync"]
    started: list[subprocess.Popen[bytes]] = []

    def start() -> subprocess.Popen[bytes]:
        with (tmp_path / "log").open("ab") as log:
            started.append(
                subprocess.Popen(
                    command, cwd=ROOT, env=environ, stdout=log, stderr=subprocess.STDOUT
                )
            )
        return started[-1]

    yield start
    for worker in started:
        worker.kill()
        worker.wait()


def batches() -> int:
    """How many batches the sync has finished."""
    db.session.rollback()
    return db.session.scalar(select(func.max(SyncRun.batches))) or 0


@pytest.mark.parametrize(
    "database", ["sqlite", pytest.param("postgresql", marks=pytest.mark.soak)], indirect=True
)
def test_a_sync_killed_in_the_middle_goes_on_behind_its_last_batch(
    start_worker: StartWorker, sandbox: Sandbox
) -> None:
    sandbox.steer(
        "directory", users=USERS, malformed=["user-1", "user-1999"], faults={"delay": 0.03}
    )
    server = current.server()
    job = sync.enqueue(syncType="full")
    worker = start_worker()
    wait_until(lambda: batches() >= 5)
    worker.kill()
    worker.wait()
    assert 5 <= batches() < BATCHES
    scheduler = Scheduler(server)
    wait_until(lambda: scheduler.run(burst=True) or server.fetch(job.id).status == "waiting")
    (done,) = work()
    assert (done.status, done.attempt) == ("completed", 2)
    result = done.result
    assert (result["usersProcessed"], result["usersUpdated"], result["errors"]) == (2000, 1998, 2)
    db.session.rollback()
    assert db.session.scalar(select(func.count()).select_from(User)) == USERS
    pages = [one["query"].get("cursor") for one in sandbox.requests() if one["status"] == 200]
    assert len(set(pages)) == BATCHES
    assert len(pages) <= BATCHES + 1, "of all pages at most the one of the kill is read again"


@pytest.mark.soak
def test_whatever_happens_in_the_middle_the_counts_are_right(
    start_worker: StartWorker, sandbox: Sandbox
) -> None:
    users, bad = 8000, ["user-1", "user-4000", "user-8000"]
    faults = {"rate": {"requests": 20, "seconds": 3}, "after": 30, "errors": 2, "delay": 0.02}
    sandbox.steer("directory", users=users, malformed=bad, faults=faults)
    server = current.server()
    job = server.enqueue(sync, {"syncType": "full"}, attempts=10, backoff=steps(0.1))
    for killed_at in (15, 45):  # a third time would be taken for the job's own doing
        worker = start_worker()
        wait_until(lambda at=killed_at: batches() >= at, seconds=60)
        if killed_at == 45:
            server.pause("user-sync")  # what runs goes on until it is killed
        worker.kill()
        worker.wait()
        server.resume("user-sync")
    start_worker()
    wait_until(lambda: server.fetch(job.id).is_ended, seconds=60)
    done = server.fetch(job.id)
    assert (done.status, done.attempt > 1) == ("completed", True)
    result = done.result
    assert (result["usersProcessed"], result["usersUpdated"], result["errors"]) == (
        *(users, users - len(bad)),
        len(bad),
    )
    db.session.rollback()
    assert db.session.scalar(select(func.count()).select_from(User)) == users
    statuses = [one["status"] for one in sandbox.requests()]
    assert {429, 500} <= set(statuses)
    assert users // 100 <= statuses.count(200) <= users // 100 + 4
