"""What schedules cost: 10,000 of them, of which 100 are due each second, and none."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil
from redis import Redis

from benchmarks.app import create_app
from benchmarks.measure import Report, valkey
from jobserver import JobServer
from jobserver.broker.entry import Entry

ENTRIES = 10_000
PERIOD = 100  # seconds: 100 of them are due at the start of each second
WARM = 3.0  # seconds until a scheduler that has started has caught up
MEASURED = 20.0  # seconds
SHORT = 5.0  # seconds


def run(report: Report) -> None:
    """Let one scheduler serve them for a while, busy and idle."""
    with valkey() as url, tempfile.TemporaryDirectory() as directory:
        os.environ |= {"REDIS_URL": url, "JOBSERVER_INSTANCE": directory}
        server: JobServer = create_app().extensions["jobserver"]
        redis = server.broker.connection
        epoch = datetime.fromtimestamp(1_700_000_000, tz=UTC)
        entries = [
            Entry(
                id=f"entry-{number}",
                type="tasks.noop",
                payload={"a": number, "b": "c"},
                seconds=PERIOD,
                start=epoch + timedelta(seconds=number % PERIOD),
                origin="api",
            )
            for number in range(ENTRIES)
        ]
        server.schedules.entries.declare(entries, prune=False)
        with _scheduler(server, Path(directory)) as process:
            began = server.schedules.entries.now() / 1000
            share, server_ms, jobs = _measure(process, redis)
        late = sorted(_lateness(redis, since=began))
        report.figure(
            "ticks made of those due", 100 * jobs / (MEASURED * 100), at_least=99, unit=" %"
        )
        report.figure("100 due a second, scheduler's CPU", share, at_most=15, unit=" % of a core")
        report.figure("a due entry, server's CPU", server_ms / jobs, at_most=1, unit=" ms")
        report.figure("lateness of ticks, p50", late[len(late) // 2], at_most=200, unit=" ms")
        report.figure(
            "lateness of ticks, p99", late[int(len(late) * 0.99)], at_most=200, unit=" ms"
        )
        redis.flushall()
        server.schedules.entries.declare(entries, prune=False)
        with _scheduler(server, Path(directory)) as doomed, _scheduler(server, Path(directory)):
            began = server.schedules.entries.now() / 1000
            time.sleep(SHORT)
            doomed.kill()
            time.sleep(SHORT)
        worst = max(_lateness(redis, since=began))
        report.figure("latest tick, one of two killed", worst, at_most=5000, unit=" ms")
        yearly = [replace(entry, seconds=365 * 86_400.0) for entry in entries]
        redis.flushall()
        server.schedules.entries.declare(yearly, prune=False)
        with _scheduler(server, Path(directory)) as process:
            share, _, jobs = _measure(process, redis)
        report.figure("10,000 idle, scheduler's CPU", share, at_most=1, unit=" % of a core")
        server.broker.connection.close()


@contextmanager
def _scheduler(server: JobServer, directory: Path) -> Iterator[psutil.Process]:
    with (directory / "scheduler.log").open("wb") as log:
        process = psutil.Popen(
            [sys.executable, "-m", "flask", "--app", "benchmarks.app", "jobs", "scheduler"],
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        while not server.schedules.entries.schedulers():
            time.sleep(0.1)
        time.sleep(WARM)
        yield process
    finally:
        process.terminate()
        process.wait()


def _measure(process: psutil.Process, redis: Redis) -> tuple[float, float, int]:
    """Return the scheduler's CPU in per cent of a core, the server's in ms, and the jobs made."""

    def used() -> tuple[float, float, int]:
        times, info = process.cpu_times(), redis.info("cpu")
        made = redis.hget("jobserver:totals", "bench-threads enqueued")
        cpu = float(info["used_cpu_user"]) + float(info["used_cpu_sys"])
        return times.user + times.system, cpu, int(made or 0)

    before, began = used(), time.monotonic()
    time.sleep(MEASURED)
    after, took = used(), time.monotonic() - began
    mine, servers, jobs = (late - early for late, early in zip(after, before, strict=True))
    return 100 * mine / took, 1000 * servers, int(jobs)


def _lateness(redis: Redis, *, since: float) -> Iterator[float]:
    """Yield for each tick since a Unix time how many ms later its job was made."""
    jobs = [job.decode() for job in redis.lrange("rq:queue:bench-threads", 0, -1)]
    ticks = {job: int(job.rpartition("-")[2]) for job in jobs}
    kept = [job for job, tick in ticks.items() if tick >= since]
    pipe = redis.pipeline(transaction=False)
    for job in kept:
        pipe.hget(f"rq:job:{job}", "created_at")
    for job, made in zip(kept, pipe.execute(), strict=True):
        yield 1000 * (datetime.fromisoformat(made.decode()).timestamp() - ticks[job])
