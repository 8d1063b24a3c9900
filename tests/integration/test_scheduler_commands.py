"""`flask jobs …` as an operator types it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from redis import Redis

ROOT = Path(__file__).parents[2]

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def flask(redis: Redis, valkey: str, tmp_path: Path) -> Run:
    """Return a function that runs `flask jobs` with arguments on an empty server."""
    settings = {
        "REDIS_URL": valkey,
        "DATABASE_URL": f"sqlite:///{tmp_path / 'host.db'}",
        "JOBSERVER_INSTANCE": str(tmp_path),
        "JOBSERVER_APP": "tests.ticking:create_app",
    }

    def run(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "flask", "--app", "tests.ticking", "jobs", *arguments],
            cwd=ROOT,
            env={**os.environ, **settings, **more},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return run


def test_a_job_is_enqueued_shown_and_run(flask: Run) -> None:
    made = flask("enqueue", "ticking.beat", '{"hand": "hour"}', "--key", "noon")
    assert made.returncode == 0, made.stderr
    assert json.loads(made.stdout)["id"] == "noon"
    ran = flask("worker", "--burst")
    assert ran.returncode == 0, ran.stderr
    shown = json.loads(flask("show", "noon").stdout)
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
def test_a_mistake_ends_with_one_clear_line(
    flask: Run, arguments: tuple[str, ...], message: str
) -> None:
    ended = flask(*arguments)
    assert ended.returncode != 0
    assert message in ended.stderr
    assert "Traceback" not in ended.stderr


def test_an_absent_redis_ends_a_command_with_one_line(flask: Run) -> None:
    ended = flask("enqueue", "ticking.beat", '{"hand": "a"}', REDIS_URL="redis://127.0.0.1:1/0")
    assert ended.returncode == 1
    assert ended.stderr.startswith("Error: Redis cannot be reached")
    assert "Traceback" not in ended.stderr


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
