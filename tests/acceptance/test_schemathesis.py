"""schemathesis against the application as it runs: right, wrong and odd requests to every route."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from flask import Flask
from redis import Redis

from jobs.application import create_app
from jobs.records import db
from jobs.settings import Settings
from tests.acceptance.conftest import ROOT, wait_until
from tests.acceptance.test_make_run import SETTINGS, free_port

BIN = Path(sys.executable).parent
HERE = Path(__file__).parent
TOKEN = "the-token-of-the-tests"


@dataclass
class Site:
    """Web processes and a worker of the application, and what they logged."""

    url: str
    log: Path


@pytest.fixture
def site(redis: Redis, valkey: str, tmp_path: Path) -> Iterator[Site]:
    """The application on an empty Valkey and a database with the demo shops."""
    port = free_port()
    settings = {
        "JOBSERVER_INSTANCE": str(tmp_path),
        "JOBSERVER_ADMIN_TOKEN": TOKEN,
        "SECRET_KEY": "a-secret-of-the-tests",
        "REDIS_URL": valkey,
        "PORT": str(port),
        "PYTHONPATH": str(ROOT),
        "RQ_WORKER_CLASS": "jobserver.worker.Worker",
        "RQ_CONNECTION_CLASS": "jobserver.broker.Connection",
        "WORKER_PROCESSES": "1",
        # An idle connection that is closed as the next request comes looks like an error.
        "GUNICORN_CMD_ARGS": "--keep-alive 60",
    }
    environ = {name: text for name, text in os.environ.items() if not SETTINGS.match(name)}
    environ |= settings
    _fill(create_app(Settings.from_env(settings)))
    log = tmp_path / "log"
    programs = [
        [BIN / "gunicorn", "-c", "python:jobserver.web", "wsgi:app"],
        [BIN / "rq", "worker"],
    ]
    with log.open("wb") as output:
        started = [
            subprocess.Popen(
                program, cwd=ROOT, env=environ, stdout=output, stderr=subprocess.STDOUT
            )
            for program in programs
        ]
    site = Site(url=f"http://127.0.0.1:{port}", log=log)
    try:
        wait_until(lambda: _answers(f"{site.url}/health"), seconds=60, what="the site answers")
        yield site
    finally:
        for process in started:
            process.send_signal(signal.SIGTERM)
        for process in started:
            process.wait(timeout=30)


def _fill(app: Flask) -> None:
    for arguments in (["db", "upgrade"], ["jobs", "migrate"], ["follows", "demo"]):
        assert app.test_cli_runner().invoke(args=arguments).exit_code == 0
    with app.app_context():
        db.engine.dispose()
    app.extensions["jobserver"].broker.connection.close()


def _answers(url: str) -> bool:
    try:
        return httpx.get(url).status_code == 200
    except httpx.TransportError:
        return False


def fuzz(site: Site, *, seconds: int, directory: Path, seed: int | None = None) -> int:
    """Let schemathesis find what it can, with every check on; return how many requests it made."""
    seeded = [] if seed is None else ["--seed", str(seed)]
    run = subprocess.run(
        [
            *(BIN / "schemathesis", "--config-file", HERE / "schemathesis.toml"),
            *("run", f"{site.url}/openapi.json", "--header", f"Authorization: Bearer {TOKEN}"),
            # Our file switches that one off, too, which the stateful phase does not always heed.
            *("--checks", "all", "--exclude-checks", "use_after_free"),
            *("--mode", "all", "--max-time", str(seconds)),
            # In two threads CPython 3.11's ast.parse, which names the generated values, may raise
            # "AST constructor recursion depth mismatch" (python/cpython#106905).
            *("--continue-on-failure", "--no-color", "--workers", "1"),
            # A long poll takes up to 30 seconds.
            *("--request-timeout", "60", "--max-response-time", "40"),
            *seeded,
        ],
        cwd=directory,
        env={
            **os.environ,
            "SCHEMATHESIS_HOOKS": "tests.acceptance.schemathesis_hooks",
            "PYTHONPATH": str(ROOT),
        },
        capture_output=True,
        text=True,
        timeout=seconds + 120,
    )
    assert run.returncode == 0, run.stdout[-20_000:] + run.stderr
    made = re.search(r"(\d+) generated, (\d+) passed", run.stdout)
    assert made is not None, run.stdout
    assert made[1] == made[2], run.stdout
    assert re.search(r"Tested: (\d+)", run.stdout)
    log = site.log.read_text()
    assert "Traceback" not in log, log[-20_000:]
    return int(made[1])


def test_no_request_is_answered_otherwise_than_described(site: Site, tmp_path: Path) -> None:
    # The soak test looks for what is new; this one must not fail by chance.
    assert fuzz(site, seconds=12, directory=tmp_path, seed=1) > 50


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_no_request_in_five_minutes_is_answered_otherwise(site: Site, tmp_path: Path) -> None:
    assert fuzz(site, seconds=300, directory=tmp_path) > 2000
