"""User sync by a real worker, killed in the middle, on both databases."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from flask import Flask
from sqlalchemy import func, select

from jobs.records import SyncRun, User, db
from jobs.settings import Settings
from jobs.users.jobs import sync
from jobserver import current
from jobserver.scheduler import Scheduler
from jobserver.testing import work
from tests.acceptance.conftest import ROOT, wait_until
from tests.sandbox import Sandbox

USERS = 2000
BATCHES = USERS // 100


@pytest.fixture
def worker(app: Flask, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A worker of user-sync in the application of this test."""
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
    with (tmp_path / "log").open("wb") as log:
        worker = subprocess.Popen(
            command, cwd=ROOT, env=environ, stdout=log, stderr=subprocess.STDOUT
        )
    yield worker
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
    worker: subprocess.Popen[bytes], sandbox: Sandbox
) -> None:
    sandbox.steer(
        "directory", users=USERS, malformed=["user-1", "user-1999"], faults={"delay": 0.03}
    )
    server = current.server()
    job = sync.enqueue(syncType="full")
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
