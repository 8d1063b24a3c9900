"""docs/operations tells the truth: its units start a system, and its commands work on it."""

from __future__ import annotations

import configparser
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.error import URLError

import pytest
from flask import Flask
from redis import Redis

from jobs.application import create_app
from jobs.settings import Settings
from jobserver import JobServer
from jobserver.embedded import free_port
from jobserver.errors import JobNotFound
from tests.acceptance.conftest import ROOT, wait_until
from tests.acceptance.test_make_run import SETTINGS

OPERATIONS = ROOT / "docs" / "operations"
UNITS = OPERATIONS / "systemd"
PROGRAMS = ("jobserver-web", "jobserver-scheduler", "jobserver-worker@")
PAGE = (OPERATIONS / "troubleshooting.md").read_text()
COMMANDS = [
    line
    for block in re.findall(r"^```sh\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    for line in block.splitlines()
]
SYMPTOMS = {
    "S0": ["Worker not processing jobs", "Jobs stuck in queue", "Monitoring", "High memory usage"],
    "S1": ["Monitoring"],
    "S2": ["Redis Connection Issues", "Jobs Not Running", "High Memory Usage", "Job Failures"],
    "S3": ["Queue Not Processing", "Jobs Failing", "High Memory Usage", "Slow Processing"],
    "S4": [
        "Redis Connection Issues",
        "High Memory Usage",
        "Stuck Jobs",
        "Worker Not Processing Jobs",
    ],
}


def service(name: str) -> dict[str, str]:
    """The section of a unit that says how its program runs."""
    parser = configparser.RawConfigParser(strict=False, comment_prefixes=("#",), delimiters=("=",))
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(UNITS / f"{name}.service")
    return dict(parser["Service"])


def test_systemd_accepts_the_units_and_finds_little_exposed(tmp_path: Path) -> None:
    if not shutil.which("systemd-analyze") and not os.environ.get("CI"):
        pytest.skip("systemd-analyze is not installed")
    for unit in UNITS.iterdir():
        (tmp_path / unit.name).write_text(unit.read_text().replace("/srv/jobserver", str(ROOT)))
    services = [str(tmp_path / f"{name}.service") for name in PROGRAMS]
    for options in (("verify",), ("security", "--offline=true", "--no-pager", "--threshold=20")):
        targets = [str(tmp_path / "jobserver.target")] if options == ("verify",) else []
        done = subprocess.run(
            ["systemd-analyze", *options, *targets, *services], capture_output=True, text=True
        )
        assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr


def test_workers_have_longer_to_stop_than_they_give_their_jobs() -> None:
    example = (UNITS / "jobserver.env").read_text()
    drain = max(
        Settings().drain_seconds, float(re.findall(r"^DRAIN_SECONDS=(.+)", example, re.M)[0])
    )
    worker = service("jobserver-worker@")
    assert float(worker["TimeoutStopSec"]) >= drain + 10
    assert {service(name)["KillMode"] for name in PROGRAMS} == {"mixed"}
    assert {service(name)["Restart"] for name in PROGRAMS} == {"always"}


def test_every_symptom_of_the_seeds_has_its_place() -> None:
    told = re.findall(r'^### (S\d) "(.+?)" \(', PAGE, re.MULTILINE)
    assert told == [(seed, symptom) for seed, names in SYMPTOMS.items() for symptom in names]


@pytest.fixture
def app(
    redis: Redis, valkey: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Flask]:
    """The application as deployment.md installs it, its settings in the environment."""
    for name in [name for name in os.environ if SETTINGS.match(name)]:
        monkeypatch.delenv(name)
    lines = (UNITS / "jobserver.env").read_text().splitlines()
    settings = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    settings |= {
        "REDIS_URL": valkey,
        "DATABASE_URL": f"sqlite:///{tmp_path / 'app.db'}",
        "JOBSERVER_INSTANCE": str(tmp_path),
        "PORT": str(free_port()),
        "JOBSERVER_ADMIN_TOKEN": "a-token-of-tests",
        "SECRET_KEY": "a-secret-of-tests",
        "PYTHONPATH": str(ROOT),
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    app = create_app()
    with app.app_context():
        for command in (["db", "upgrade"], ["jobs", "migrate"]):
            result = app.test_cli_runner().invoke(args=command)
            assert result.exit_code == 0, result.output
        yield app
    server: JobServer = app.extensions["jobserver"]
    server.broker.connection.close()


@pytest.fixture
def programs(app: Flask, tmp_path: Path) -> Iterator[dict[str, subprocess.Popen[bytes]]]:
    """The programs of the units, started and stopped as systemd does, ready to serve."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
        notified.bind(str(tmp_path / "notify"))
        notified.settimeout(30)
        running = {name: start(name, tmp_path) for name in PROGRAMS}
        try:
            assert notified.recv(1000).startswith(b"READY=1")
            yield running
        finally:
            for program in running.values():
                program.send_signal(signal.SIGTERM)
            for name, program in running.items():
                program.wait(timeout=float(service(name)["TimeoutStopSec"]))


def start(name: str, directory: Path) -> subprocess.Popen[bytes]:
    """Start what a unit runs."""
    unit = service(name)
    command = shlex.split(unit["ExecStart"].replace("/srv/jobserver", str(ROOT)))
    notify = {"NOTIFY_SOCKET": str(directory / "notify")} if unit["Type"] == "notify" else {}
    with (directory / f"{name}.log").open("wb") as log:
        return subprocess.Popen(
            [word for word in command if word != "$QUEUES"],  # which no file sets
            cwd=ROOT,
            env={**os.environ, **notify},
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def readiness() -> str:
    """The status of the web process by /health/ready."""
    try:
        url = f"http://127.0.0.1:{os.environ['PORT']}/health/ready"
        with urllib.request.urlopen(url, timeout=5) as answer:
            return str(json.load(answer)["status"])
    except URLError:
        return "down"


def test_what_the_units_start_is_well_and_the_documented_commands_work_on_it(
    app: Flask, programs: dict[str, subprocess.Popen[bytes]]
) -> None:
    server: JobServer = app.extensions["jobserver"]
    wait_until(lambda: readiness() == "pass", seconds=60)

    def has_failed() -> bool:
        try:
            return server.fetch("follow-1").status == "failed"
        except JobNotFound:
            return False

    server.enqueue("follows.sync_products", {"follow_id": 1})  # there is no such follow
    assert len(set(COMMANDS)) >= 20
    for line in dict.fromkeys(COMMANDS):
        wait_until(has_failed)
        program, *words = shlex.split(line)
        assert program == "flask"
        result = app.test_cli_runner().invoke(args=words)
        assert result.exit_code == 0, f"{line}: {result.output}"
    for program in programs.values():
        assert program.poll() is None
        program.send_signal(signal.SIGTERM)
    assert [program.wait(timeout=40) for program in programs.values()] == [0, 0, 0]
