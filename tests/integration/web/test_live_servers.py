"""Waiting clients of a real gunicorn, with the settings of `make run`, and its ordered stop."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from redis import Redis

from jobserver import JobServer
from tests.acceptance.conftest import wait_until
from tests.acceptance.test_make_run import free_port
from tests.hands import Hand
from tests.integration.web.gunicorn import ROOT
from tests.integration.web.shop import MAIL, TOKEN, send_letter

pytestmark = pytest.mark.alone

CLIENTS = 60
SOON = 1.0  # seconds after its job's end that a client sees it: five times what is promised
LATEST = 5.0  # seconds, for all: whoever's change was missed would see it after ten


class Web:
    """One gunicorn with one process."""

    def __init__(self, directory: Path, redis_url: str) -> None:
        self.port = free_port()
        self.log = directory / "web.log"
        settings = {
            "PYTHONPATH": str(ROOT),
            "PORT": str(self.port),
            "REDIS_URL": redis_url,
            "JOBSERVER_INSTANCE": str(directory),
            "JOBSERVER_ADMIN_TOKEN": TOKEN,
        }
        app = "tests.engine_app:create_app()"
        options = ["--config", "python:jobserver.web", "--workers=1"]
        with self.log.open("wb") as log:
            self.process = psutil.Popen(
                [sys.executable, "-m", "gunicorn", *options, app],
                cwd=ROOT,
                env={**os.environ, **settings},
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self.http = httpx.Client(
            base_url=f"http://127.0.0.1:{self.port}",
            headers={"Authorization": f"Bearer {TOKEN}"},
            limits=httpx.Limits(max_connections=None),
            timeout=40,
        )
        wait_until(self._answers, seconds=60, what="gunicorn answers")

    def _answers(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        try:
            return self.http.get("/health/live").status_code == 200
        except httpx.TransportError:
            return False

    def close(self) -> None:
        self.http.close()
        if self.process.poll() is None:
            for child in self.process.children():
                child.kill()
            self.process.kill()
            self.process.wait()


@pytest.fixture
def web(tmp_path: Path, valkey: str, redis: Redis) -> Iterator[Web]:
    web = Web(tmp_path, valkey)
    yield web
    web.close()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(CLIENTS) as pool:
        yield pool


def waiting(web: Web) -> int:
    """Return how many threads the process has for its clients."""
    return sum(child.num_threads() for child in web.process.children())


def xreads(redis: Redis) -> int:
    return sum(client["cmd"] == "xread" for client in redis.client_list())


def test_many_waiters_see_the_end_soon_and_take_one_connection(
    web: Web, pool: ThreadPoolExecutor, server: JobServer, redis: Redis
) -> None:
    jobs = server.enqueue_many(send_letter, [{"to": f"n{n}"} for n in range(CLIENTS)])
    hand = Hand(server.broker, [MAIL])
    taken = hand.claim(processes=CLIENTS)
    seen: dict[str, float] = {}
    begun: list[str] = []

    def stream(job_id: str) -> None:
        with web.http.stream("GET", f"/api/v1/jobs/{job_id}/events") as response:
            for line in response.iter_lines():
                if line == "event: state":
                    begun.append(job_id)
                if line == "event: end":
                    seen[job_id] = time.monotonic()

    def poll(job_id: str) -> None:
        tag = web.http.get(f"/api/v1/jobs/{job_id}").headers["ETag"]
        begun.append(job_id)
        answer = web.http.get(f"/api/v1/jobs/{job_id}?wait=30", headers={"If-None-Match": tag})
        assert answer.json()["status"] == "completed"
        seen[job_id] = time.monotonic()

    clients = [pool.submit((stream, poll)[n % 2], job.id) for n, job in enumerate(jobs)]
    wait_until(lambda: len(begun) == CLIENTS, what="all have begun")
    wait_until(lambda: waiting(web) > CLIENTS, what="all wait")
    assert xreads(redis) == 1
    ended: dict[str, float] = {}
    for claim in taken:
        ended[claim.id] = time.monotonic()
        hand.end(claim)
    for client in clients:
        client.result(30)
    late = sorted(seen[job.id] - ended[job.id] for job in jobs)
    assert late[int(0.95 * CLIENTS)] < SOON, late
    assert late[-1] < LATEST, late


def test_open_streams_and_long_polls_do_not_hold_up_the_stop(
    web: Web, pool: ThreadPoolExecutor, server: JobServer, redis: Redis
) -> None:
    job = server.enqueue(send_letter, {"to": "ada"})
    tag = web.http.get(f"/api/v1/jobs/{job.id}").headers["ETag"]

    def stream() -> str:
        with web.http.stream("GET", f"/api/v1/jobs/{job.id}/events") as response:
            return response.read().decode()  # a cut stream would raise

    def poll() -> Any:
        return web.http.get(f"/api/v1/jobs/{job.id}?wait=30", headers={"If-None-Match": tag})

    streams = [pool.submit(stream) for _ in range(5)]
    polls = [pool.submit(poll) for _ in range(5)]
    wait_until(lambda: xreads(redis) == 1 and waiting(web) >= 12, what="all wait")
    web.process.send_signal(signal.SIGTERM)
    # Killed with them, streams would be cut short, and polls be left without an answer.
    assert all("event: state" in one.result(30) for one in streams)
    assert {one.result(30).status_code for one in polls} == {304}
    web.http.close()
    assert web.process.wait(30) == 0
