"""A full user sync from the sandbox's directory into PostgreSQL: how fast, and in what memory."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
from flask import Flask

from benchmarks.measure import Report, valkey
from tests import databases, sandbox
from tests.sandbox import Sandbox

USERS = 50_000
MIB = 1024 * 1024


def run(report: Report) -> None:
    """Sync everybody into an empty table, then once more."""
    with (
        valkey() as url,
        tempfile.TemporaryDirectory() as directory,
        databases.postgresql(Path(directory, "postgresql")) as database,
        sandbox.started() as vendors,
    ):
        os.environ.update(
            REDIS_URL=url,
            DATABASE_URL=database,
            DIRECTORY_URL=vendors.url,
            DIRECTORY_TOKEN=vendors.token,
            JOBSERVER_INSTANCE=directory,
            JOBSERVER_APP="wsgi:app",
            RQ_WORKER_CLASS="jobserver.worker.Worker",
            RQ_CONNECTION_CLASS="jobserver.broker.Connection",
        )
        from jobs.application import create_app

        app = create_app()
        for command in ("db", "upgrade"), ("jobs", "migrate"):
            assert app.test_cli_runner().invoke(args=command).exit_code == 0
        log = Path(directory, "worker.log")
        with log.open("wb") as output:
            worker = psutil.Popen(
                [Path(sys.executable).parent / "rq", "worker", "user-sync"],
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        try:
            _measure(report, app, vendors, worker)
        finally:
            worker.terminate()
            worker.wait()


def _measure(report: Report, app: Flask, vendors: Sandbox, worker: psutil.Popen) -> None:
    server = app.extensions["jobserver"]
    while not server.workers():
        assert worker.poll() is None
        time.sleep(0.01)
    idle = most = worker.memory_info().rss
    for what in ("added", "updated"):
        vendors.steer("directory", users=USERS)
        job = server.enqueue("users.sync", {"syncType": "full"})
        while not (found := server.fetch(job.id)).is_ended:
            most = max(most, worker.memory_info().rss)
            time.sleep(0.1)
        result: Any = found.result
        assert result["usersUpdated"] == USERS, found
        own = sum(request["ms"] for request in vendors.requests())
        report.figure(
            f"users {what} in PostgreSQL, the directory's own {own / 1000:.1f} s excluded",
            USERS / (result["duration"] - own) * 1000,
            at_least=5000,
            unit="/s",
        )
    report.figure("growth of the worker", (most - idle) / MIB, at_most=30, unit=" MiB")
