"""What clients of jobs get of one web process: polls against a bare route, and waiting."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from redis import Redis

from benchmarks.measure import Report, valkey
from tests.acceptance.test_make_run import free_port
from tests.hands import Hand

TOKEN = "a-token-for-benchmarks"
POLLERS = 200
POLL_SECONDS = 2.0
POLLS = 5  # of each poller
WAITERS = 300
BUSY = 16  # clients that ask without a pause
BUSY_SECONDS = 2.0

Follow = Callable[["Client", str], Awaitable[float]]


def run(report: Report) -> None:
    """Measure one gunicorn process with the settings of `make run`."""
    with valkey() as url, tempfile.TemporaryDirectory() as directory:
        os.environ.update(REDIS_URL=url, JOBSERVER_INSTANCE=directory, JOBSERVER_ADMIN_TOKEN=TOKEN)
        with gunicorn(Path(directory)) as port:
            watch(report, port=port, redis=Redis.from_url(url))


def watch(report: Report, *, port: int, redis: Redis) -> None:
    """Measure clients that poll a job, and clients that wait for its end."""
    from benchmarks.app import create_app

    server = create_app().extensions["jobserver"]
    job = server.enqueue("tasks.noop", {"a": 1, "b": "some text"})
    redis.set("bare", "x" * 400)
    path = f"/api/v1/jobs/{job.id}"
    etag = httpx.get(f"http://127.0.0.1:{port}{path}", headers=_bearer()).headers["ETag"]
    for name, tag in (("GET of a job", ""), ("its 304", etag)):
        report.ratio(
            f"{name} against a bare route with one GET",
            lambda tag=tag: asyncio.run(_busy(port, path, tag=tag)),
            lambda: asyncio.run(_busy(port, "/bare")),
            at_least=0.6,
        )
    late = sorted(asyncio.run(_polls(port, path, tag=etag)))
    p99 = late[int(len(late) * 0.99)] * 1000
    report.figure(f"{POLLERS} pollers with an ETag, p99", p99, at_most=50, unit=" ms")
    for how, follow in (("event streams", _stream), ("long polls", _long_poll)):
        for when, pause in (("one by one", 0.01), ("in one moment", 0.0)):
            late, connections = asyncio.run(_ends(server, port, redis, follow, pause=pause))
            name = f"{WAITERS} {how}, ended {when}"
            report.figure(f"{name}: the last one saw it after", late, at_most=200, unit=" ms")
            report.figure(f"{name}: connections to Redis that wait", connections, at_most=3)


@contextmanager
def gunicorn(directory: Path) -> Iterator[int]:
    """Serve benchmarks/app.py from one process; yield its port."""
    port = free_port()
    command = [sys.executable, "-m", "gunicorn", "--config", "python:jobserver.web", "--workers=1"]
    with (directory / "web.log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "benchmarks.app:create_app()"],
            env={**os.environ, "PORT": str(port)},
            stdout=log,
            stderr=log,
        )
    try:
        deadline = time.monotonic() + 30
        while not _is_up(port):
            if time.monotonic() > deadline or process.poll() is not None:
                raise TimeoutError((directory / "web.log").read_text())
            time.sleep(0.05)
        yield port
    finally:
        process.terminate()
        process.wait(timeout=30)


def _is_up(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health/live").is_success
    except httpx.TransportError:
        return False


def _bearer() -> dict[str, str]:
    return {"Authorization": f"Bearer {TOKEN}"}


class Client:
    """One connection, kept alive; bare, for the client shares the machine with the server."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self._writer = writer

    @classmethod
    async def connect(cls, port: int) -> Client:
        """Return a client that is connected."""
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    def ask(self, path: str, *, tag: str = "") -> None:
        """Send a GET."""
        known = f"If-None-Match: {tag}\r\n" if tag else ""
        head = f"GET {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n{known}\r\n"
        self._writer.write(head.encode())

    async def answer(self) -> dict[str, str]:
        """Read an answer; return its headers, and its status as that of ''."""
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode().splitlines()
        headers = {"": head[0].split()[1]}
        for line in head[1:-1]:
            name, _, value = line.partition(": ")
            headers[name.lower()] = value
        await self.reader.readexactly(int(headers.get("content-length", 0)))
        return headers

    def close(self) -> None:
        """Close the connection."""
        self._writer.close()


async def _busy(port: int, path: str, *, tag: str = "") -> float:
    """Return answers per second to clients that ask without a pause."""
    until = time.perf_counter() + BUSY_SECONDS

    async def ask() -> int:
        client, count = await Client.connect(port), 0
        while time.perf_counter() < until:
            client.ask(path, tag=tag)
            status = (await client.answer())[""]
            assert status == ("304" if tag else "200"), status
            count += 1
        client.close()
        return count

    return sum(await asyncio.gather(*(ask() for _ in range(BUSY)))) / BUSY_SECONDS


async def _polls(port: int, path: str, *, tag: str) -> list[float]:
    """Return how many seconds each poll took, of many pollers who keep the interval."""

    async def poll(number: int) -> list[float]:
        client, took = await Client.connect(port), []
        await asyncio.sleep(POLL_SECONDS * number / POLLERS)
        for _ in range(POLLS):
            began = time.perf_counter()
            client.ask(path, tag=tag)
            await client.answer()
            took.append(time.perf_counter() - began)
            await asyncio.sleep(POLL_SECONDS - took[-1])
        client.close()
        return took

    return [one for took in await asyncio.gather(*map(poll, range(POLLERS))) for one in took]


async def _stream(client: Client, path: str) -> float:
    """Follow a job's event stream; return when its end came."""
    client.ask(f"{path}/events")
    await client.reader.readuntil(b"event: state")
    await client.reader.readuntil(b"event: end")
    return time.perf_counter()


async def _long_poll(client: Client, path: str) -> float:
    """Wait for a job's change, and return when it came."""
    client.ask(path)
    first = await client.answer()
    assert first[""] == "200", first
    client.ask(f"{path}?wait=30", tag=first["etag"])
    assert (await client.answer())[""] == "200"
    return time.perf_counter()


async def _ends(
    server: Any, port: int, redis: Redis, follow: Follow, *, pause: float
) -> tuple[float, int]:
    """End the jobs of many waiting clients.

    Returns after how many milliseconds the last one saw the end of its own, and the connections
    to Redis that were blocked for them.
    """
    jobs = server.enqueue_many("tasks.noop", [{"a": 1, "b": "some text"}] * WAITERS)
    hand = Hand(server.broker, [server.registry.queue("bench-threads")])
    claims = [
        claim for claim in hand.claim(threads=WAITERS + 10) if claim.id in {j.id for j in jobs}
    ]

    async def wait(job_id: str) -> float:
        client = await Client.connect(port)
        seen = await follow(client, f"/api/v1/jobs/{job_id}")
        client.close()
        return seen

    waiting = {claim.id: asyncio.create_task(wait(claim.id)) for claim in claims}
    await asyncio.sleep(3)  # all of them wait by then
    blocked = sum(client["cmd"] == "xread" for client in redis.client_list())
    ended: dict[str, float] = {}
    loop = asyncio.get_running_loop()
    if not pause:
        await loop.run_in_executor(None, hand.end_many, [(claim, "completed") for claim in claims])
        ended = dict.fromkeys(waiting, time.perf_counter())
    for claim in claims if pause else ():
        await loop.run_in_executor(None, hand.end, claim)
        ended[claim.id] = time.perf_counter()
        await asyncio.sleep(pause)
    seen = {job_id: await task for job_id, task in waiting.items()}
    return max(seen[job_id] - ended[job_id] for job_id in seen) * 1000, blocked
