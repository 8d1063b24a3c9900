"""`flask jobs …` as an operator types it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from redis import Redis

from tests import ticking

ROOT = Path(__file__).parents[2]

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(autouse=True)
def settings(redis: Redis, valkey: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings of an empty server in the environment."""
    monkeypatch.setenv("REDIS_URL", valkey)
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{tmp_path / 'host.db'}")
    monkeypatch.setenv("JOBSERVER_INSTANCE", str(tmp_path))
    monkeypatch.setenv("JOBSERVER_APP", "tests.ticking:create_app")


def typed(*arguments: str) -> Result:
    """Run a command of `flask jobs` here."""
    app = ticking.create_app()
    try:
        return app.test_cli_runner().invoke(args=["jobs", *arguments])
    finally:
        app.extensions["jobserver"].broker.connection.close()


@pytest.fixture
def flask() -> Run:
    """Return a function that runs `flask jobs` in a process of its own."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "flask", "--app", "tests.ticking", "jobs", *arguments],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return run


def test_a_job_is_enqueued_shown_and_run(flask: Run) -> None:
    made = typed("enqueue", "ticking.beat", '{"hand": "hour"}', "--key", "noon")
    assert made.exit_code == 0, made.output
    assert json.loads(made.stdout)["id"] == "noon"
    ran = flask("worker", "--burst")
    assert ran.returncode == 0, ran.stderr
    shown = json.loads(typed("show", "noon").stdout)
    assert (shown["status"], shown["result"]) == ("completed", "hour")


def test_one_pass_of_the_scheduler_ends_by_itself(flask: Run, redis: Redis) -> None:
    assert flask("migrate").returncode == 0
    done = flask("scheduler", "--burst")
    assert done.returncode == 0, done.stderr
    assert redis.zcard("jobserver:due") == 2
    assert "fails" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("enqueue", "ticking.bat", "{}"), "did you mean 'ticking.beat'"),
        (("enqueue", "ticking.beat", "{"), "is no JSON"),
        (("enqueue", "ticking.beat", "{}"), "#/hand"),
        (("show", "nothing"), "'nothing'"),
    ],
)
def test_a_mistake_ends_with_one_clear_line(arguments: tuple[str, ...], message: str) -> None:
    ended = typed(*arguments)
    assert isinstance(ended.exception, SystemExit), "no traceback"
    assert ended.exit_code != 0
    assert message in ended.stderr


def test_an_absent_redis_ends_a_command_with_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1/0")
    ended = typed("enqueue", "ticking.beat", '{"hand": "a"}')
    assert isinstance(ended.exception, SystemExit), "no traceback"
    assert ended.exit_code == 1
    assert ended.stderr.startswith("Error: Redis cannot be reached")


def test_the_web_process_loads_neither_scheduler_nor_worker(tmp_path: Path) -> None:
    code = (
        "import sys; from tests.ticking import create_app; create_app();"
        "print([m for m in ('rq_scheduler', 'alembic', 'jobserver.worker') if m in sys.modules])"
    )
    settings = {"DATABASE_URL": "sqlite://", "JOBSERVER_INSTANCE": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]"
