"""`python -m jobserver.supervise`, which is `make run`: started, killed, stopped, started again."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.error import URLError

import psutil
import pytest
from redis import Redis

from jobs.settings import Settings
from jobserver.supervise import place
from tests.acceptance.conftest import ROOT, wait_until

BIN = Path(sys.executable).parent
STOP_SECONDS = 15
OF_THE_PROJECT = ("jobserver", "jobs", "templates", "wsgi.py", "supervisord.conf", ".env.example")
# What the environment of the test run may hold of our settings.
SETTINGS = re.compile(r"REDIS_|RQ_|JOBSERVER_|QUEUE_|WORKER_|DATABASE_URL|FLASK_|SECRET_KEY|PORT$")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class System:
    """One installation in a directory of its own, and its running supervisor."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        for name in OF_THE_PROJECT:
            (directory / name).symlink_to(ROOT / name)
        self.instance = directory / "instance"
        self.log = directory / "log"
        self.port = free_port()
        self.process: psutil.Popen | None = None
        self._seen: set[psutil.Process] = set()

    def environ(self, **settings: str) -> dict[str, str]:
        clean = {name: value for name, value in os.environ.items() if not SETTINGS.match(name)}
        return {**clean, "PORT": str(self.port), **settings}

    def start(self, *arguments: str, **settings: str) -> psutil.Popen:
        with self.log.open("ab") as log:
            self.process = psutil.Popen(
                [sys.executable, "-m", "jobserver.supervise", *arguments],
                cwd=self.directory,
                env=self.environ(**settings),
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return self.process

    def refusal(self, **settings: str) -> str:
        """Start where that must fail; return the one line it says."""
        process = self.start(**settings)
        try:
            assert process.wait(timeout=30) == 1, self.log.read_text()
        finally:
            self.kill()
        assert not self.left()
        lines = self.log.read_text().splitlines()
        assert len(lines) == 1, lines
        return lines[0]

    def answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log.read_text()
        try:
            url = f"http://127.0.0.1:{self.port}/health/live"
            with urllib.request.urlopen(url, timeout=5) as response:
                return bool(response.status == 200)
        except (URLError, ConnectionError):
            return False

    def await_ready(self) -> None:
        assert self.process is not None
        wait_until(self.answers, seconds=60, what="the web process answers")
        wait_until(lambda: len(self.programs("rq worker")) == 2, what="two workers run")
        # What it said before it answered may still be on its way through the cat.
        wait_until(lambda: "jobserver runs at" in self.log.read_text(), what="it says where")
        self._seen.update(self.process.children(recursive=True))

    def programs(self, name: str) -> list[psutil.Process]:
        """Return the supervisor's own children whose command line holds `name`."""
        assert self.process is not None
        found = []
        for child in self.process.children():
            try:
                if name in " ".join(child.cmdline()):
                    found.append(child)
            except psutil.NoSuchProcess:
                continue
        return found

    def stop(self, how: signal.Signals = signal.SIGTERM) -> float:
        """Stop everything, return the seconds it took; fail when a process is left."""
        assert self.process is not None
        self._seen.update(self.process.children(recursive=True))
        began = time.monotonic()
        self.process.send_signal(how)
        assert self.process.wait(timeout=STOP_SECONDS + 5) == 0
        took = time.monotonic() - began
        # The cat that passes output on ends a moment after its last writer.
        wait_until(lambda: not self.left(), seconds=2, what="every process has ended")
        return took

    def left(self) -> list[psutil.Process]:
        return [one for one in self._seen if one.is_running() and one.status() != "zombie"]

    def kill(self) -> None:
        """End what is left of a failed test."""
        if self.process is not None and self.process.poll() is None:
            self._seen.update(self.process.children(recursive=True))
            self.process.kill()
            self.process.wait()
        for one in self.left():
            one.kill()

    def redis(self) -> Redis:
        return Redis.from_url((self.instance / "redis-url").read_text().strip())


@pytest.fixture
def system(tmp_path: Path) -> Iterator[System]:
    system = System(tmp_path)
    yield system
    system.kill()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    system = System(tmp_path_factory.mktemp("running"))
    system.start()
    try:
        system.await_ready()
        yield system
    finally:
        system.kill()


def test_the_url_and_the_admin_token_are_printed_and_kept(running: System) -> None:
    kept = running.instance / "admin-token"
    printed = running.log.read_text()
    assert f"jobserver runs at http://127.0.0.1:{running.port}" in printed
    assert f"admin token: {kept.read_text().strip()}" in printed
    for name in ("admin-token", "secret-key"):
        assert stat.S_IMODE((running.instance / name).stat().st_mode) == 0o600


def test_the_sandbox_is_where_the_settings_look_for_it(running: System) -> None:
    url = (running.instance / "sandbox-url").read_text().strip()
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+", url)
    settings = Settings.from_env({"JOBSERVER_INSTANCE": str(running.instance)})
    assert settings.directory_url == url
    request = urllib.request.Request(  # noqa: S310  # of this machine
        f"{url}/directory/users/user-1",
        headers={"Authorization": f"Bearer {settings.directory_token}"},
    )
    with urllib.request.urlopen(request, timeout=5) as response:  # noqa: S310
        assert response.status == 200


def test_the_embedded_server_is_durable_and_never_evicts(running: System) -> None:
    client = running.redis()
    wanted = {
        "appendonly": "yes",
        "appendfsync": "everysec",
        "maxmemory-policy": "noeviction",
        "stream-node-max-bytes": "512",
        "hash-max-listpack-value": "1024",
        "bind": "127.0.0.1",
        "dir": str(running.instance / "valkey"),
    }
    assert client.config_get(*wanted) == wanted
    client.close()


def test_a_second_terminal_has_the_workers_through_the_env_file(running: System) -> None:
    assert (running.directory / ".env").read_text() == (ROOT / ".env.example").read_text()
    script = "set -a; . ./.env; set +a; rq info --raw && rq worker --burst product-sync"
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=running.directory,
        env=running.environ(PATH=f"{BIN}{os.pathsep}{os.environ['PATH']}"),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    workers = [line for line in done.stdout.splitlines() if line.startswith("worker ")]
    assert len(workers) == 2, done.stdout
    assert "Queue Worker is now running" in done.stderr


@pytest.mark.parametrize(
    "program",
    ["rq worker", "flask jobs scheduler", "jobs.sandbox", "jobserver.web", "valkey-server"],
)
def test_a_killed_program_is_started_again(running: System, program: str) -> None:
    killed = running.programs(program)
    count = len(killed)
    assert count == (2 if program == "rq worker" else 1)
    killed[0].kill()
    wait_until(
        lambda: len(set(running.programs(program)) - set(killed)) == 1, what=f"{program} is back"
    )
    running.await_ready()


def test_it_stops_in_time_leaves_nothing_and_goes_on_where_it_was(running: System) -> None:
    # What answers may be the orphans of one that was killed, who hold its port for a second.
    wait_until(lambda: running.programs("jobserver.web")[0].children(), what="the web is up")
    client = running.redis()
    client.set("written", "before")
    token = (running.instance / "admin-token").read_text()
    said = len(running.log.read_text())
    assert running.stop(signal.SIGTERM) < STOP_SECONDS
    stopped = re.findall(
        r"Shutting down: Master|Queue Worker has stopped|Valkey is now ready",
        running.log.read_text()[said:],
    )
    assert stopped == [
        "Shutting down: Master",
        "Queue Worker has stopped",
        "Queue Worker has stopped",
        "Valkey is now ready",
    ]

    running.start()
    running.await_ready()
    assert client.get("written") == b"before"
    assert (running.instance / "admin-token").read_text() == token
    assert running.stop(signal.SIGINT) < STOP_SECONDS
    client.close()


def test_a_given_server_is_used_and_none_is_started(system: System, valkey: str) -> None:
    system.start(REDIS_URL=valkey, RQ_KEY_PREFIX="make-run", JOBSERVER_ADMIN_TOKEN="given-token")
    system.await_ready()
    assert not system.programs("valkey-server")
    assert "admin token: given-token" in system.log.read_text()
    assert not (system.instance / "redis-url").exists()
    assert system.stop() < STOP_SECONDS


def test_a_taken_port_is_one_line(system: System) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        system.port = taken.getsockname()[1]
        line = system.refusal()
    assert line == f"jobserver: PORT={system.port} is taken on 127.0.0.1; set PORT to another one"


def test_a_second_start_in_the_same_directory_is_one_line(system: System) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        system.instance.mkdir()
        (system.instance / "redis-url").write_text(f"redis://127.0.0.1:{port}/0\n")
        line = system.refusal()
    assert line.startswith(f"jobserver: The embedded Valkey's port {port} is taken on 127.0.0.1; ")
    assert "does not run already" in line


def test_a_kept_port_is_used_again_unless_another_has_taken_it(tmp_path: Path) -> None:
    kept = tmp_path / "sandbox-url"
    first = place(kept, after=25000)
    assert first > 25000
    assert place(kept, after=26000) == first
    with socket.create_server(("127.0.0.1", first)):
        other = place(kept, after=25000)
    assert other != first
    assert kept.read_text() == f"http://127.0.0.1:{other}\n"


def test_an_unreachable_server_is_one_line(system: System) -> None:
    port = free_port()
    line = system.refusal(REDIS_URL=f"redis://:hush@127.0.0.1:{port}/0")
    assert line.startswith(f"jobserver: REDIS_URL='redis://***@127.0.0.1:{port}/0': Redis cannot")


@pytest.mark.parametrize(
    ("variable", "value"),
    [("WORKER_INSTANCES", "none"), ("RESYNC_HOURS", "often"), ("QUEUE_PRODUCT_SYNC_TIMEOUT", "0")],
)
def test_a_bad_variable_is_one_line(system: System, variable: str, value: str) -> None:
    line = system.refusal(**{variable: value})
    assert line.startswith(f"jobserver: {variable}: '{value}' is not accepted; use a")


def test_an_instance_directory_that_cannot_be_is_one_line(system: System) -> None:
    place = system.directory / "dangling"
    place.symlink_to(system.directory / "nowhere")
    line = system.refusal(JOBSERVER_INSTANCE=str(place))
    assert line.startswith(f"jobserver: JOBSERVER_INSTANCE={str(place)!r} cannot be made: ")


def test_a_bad_line_in_the_env_file_is_one_line_too(system: System) -> None:
    (system.directory / ".env").write_text("RQ_KEY_PREFIX='my app'\n")
    line = system.refusal()
    assert line.startswith("jobserver: RQ_KEY_PREFIX: 'my app' is not accepted; use letters")


def test_a_failing_step_is_one_line(system: System) -> None:
    plan = system.directory / "supervisord.conf"
    text = plan.read_text()
    plan.unlink()
    plan.write_text(text.replace("flask prepare", "flask jobs no-such-command"))
    line = system.refusal()
    assert line == (
        "jobserver: `flask jobs no-such-command` failed: No such command 'no-such-command'."
    )


def test_programs_are_started_again_when_a_source_changes(system: System) -> None:
    # Only a copy of the sources may be touched.
    (system.directory / "wsgi.py").unlink()
    shutil.copy(ROOT / "wsgi.py", system.directory)
    system.start("--dev")
    system.await_ready()
    names = ("jobserver.web", "rq worker")
    before = {name: system.programs(name)[0].children()[0] for name in names}
    os.utime(system.directory / "wsgi.py")
    for name, child in before.items():
        wait_until(lambda child=child: not child.is_running(), what=f"{name} ends")
    system.await_ready()
    assert system.stop() < STOP_SECONDS
