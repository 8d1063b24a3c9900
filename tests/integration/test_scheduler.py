"""Recurring entries: each tick makes one job, and nothing is lost or kept too long."""

from __future__ import annotations

import inspect
import logging
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import orjson
import pytest
import rq_scheduler  # type: ignore[import-untyped]
from hypothesis import given
from hypothesis import strategies as st
from redis import Redis

from jobserver import Every, JobServer
from jobserver.broker.entries import DUE, ENTRIES, PARKED, Entries, state_key
from jobserver.broker.entry import Entry
from jobserver.config import Config
from jobserver.errors import JobServerError
from jobserver.scheduler import Scheduler
from jobserver.scheduler.chores import Chore
from tests.ticking import beat, create_app


@pytest.fixture
def server(
    redis: Redis, valkey: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[JobServer]:
    monkeypatch.setenv("REDIS_URL", valkey)
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{tmp_path / 'host.db'}")
    app = create_app()
    with app.app_context():
        server: JobServer = app.extensions["jobserver"]
        yield server
        server.broker.connection.close()
        server.db.engine.dispose()  # type: ignore[attr-defined]


@pytest.fixture
def scheduler(server: JobServer) -> Scheduler:
    """A scheduler whose entries are declared."""
    scheduler = Scheduler(server)
    scheduler.entries.declare(scheduler.declared(), prune=True)
    return scheduler


def waiting(redis: Redis) -> list[str]:
    """Return the ids of the jobs that ticks have made."""
    return [job_id.decode() for job_id in redis.lrange("rq:queue:clock", 0, -1)]


def due(redis: Redis, entry: str) -> float:
    """Return the Unix time when an entry is due."""
    score = redis.zscore(DUE, entry)
    assert score is not None
    return score / 1000


def let_be_due(redis: Redis, entry: str, at: float) -> None:
    """Let an entry stand at a tick of the past."""
    tick = round(at * 1000)
    redis.hset(state_key(entry), mapping={"tick": tick, "due": tick})
    redis.zadd(DUE, {entry: tick})


def now(redis: Redis) -> float:
    seconds, micros = redis.time()
    return float(seconds + micros / 1_000_000)


@given(
    seconds=st.floats(min_value=1, max_value=10**7), moment=st.floats(min_value=0, max_value=4e9)
)
def test_the_next_tick_is_the_first_one_later_on_the_grid(seconds: float, moment: float) -> None:
    entry = Entry(id="a", type="a", seconds=seconds, payload={})
    step, after = round(seconds * 1000), round(moment * 1000)
    first, second = islice(entry.ticks(after=after), 2)
    assert after < first <= after + step
    assert first % step == 0
    assert second == first + step == next(entry.ticks(after=first))


def test_a_new_entry_comes_due_on_its_grid(scheduler: Scheduler, redis: Redis) -> None:
    assert due(redis, "minute") % 60 == 0
    assert 0 < due(redis, "minute") - now(redis) <= 60
    assert scheduler.enqueue_jobs() in ([], [f"second-{due(redis, 'second') - 1:.0f}"])


def test_a_tick_makes_one_job_and_moves_on(
    scheduler: Scheduler, server: JobServer, redis: Redis
) -> None:
    tick = due(redis, "minute") - 60  # if the minute ends now, it is made up for
    let_be_due(redis, "minute", tick)
    redis.zrem(DUE, "second")
    assert scheduler.enqueue_jobs() == [f"minute-{tick:.0f}"]
    assert scheduler.enqueue_jobs() == []
    assert due(redis, "minute") == tick + 60
    made = server.fetch(f"minute-{tick:.0f}")
    assert (made.type, made.payload, made.status) == ("ticking.beat", {"hand": "minute"}, "waiting")


def test_missed_ticks_make_one_job_and_the_grid_goes_on(scheduler: Scheduler, redis: Redis) -> None:
    following = due(redis, "minute")
    let_be_due(redis, "minute", following - 60 * 100)
    redis.zrem(DUE, "second")
    assert scheduler.enqueue_jobs() == [f"minute-{following - 60:.0f}"]
    assert scheduler.enqueue_jobs() == []
    assert 0 < due(redis, "minute") - now(redis) <= 60
    assert due(redis, "minute") % 60 == 0


def test_schedulers_at_once_make_each_tick_once(
    server: JobServer, scheduler: Scheduler, redis: Redis
) -> None:
    hour = now(redis) // 3600 * 3600
    names = [f"entry-{number}" for number in range(250)]
    entries = [Entry(id=n, type=beat.name, seconds=3600, payload={"hand": n}) for n in names]
    scheduler.entries.declare(entries, prune=True)
    for name in names:
        let_be_due(redis, name, hour)
    made: list[str] = []

    def tick() -> None:
        another = Scheduler(server)
        while jobs := another.enqueue_jobs() or another.entries.due().entries:
            made.extend(job for job in jobs if isinstance(job, str))

    threads = [threading.Thread(target=tick) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(made) == sorted(f"{name}-{hour:.0f}" for name in names)
    assert sorted(waiting(redis)) == sorted(made)


def test_declaring_again_keeps_the_time(scheduler: Scheduler, redis: Redis) -> None:
    let_be_due(redis, "minute", 1_700_000_000)
    scheduler.entries.declare(scheduler.declared(), prune=True)
    assert due(redis, "minute") == 1_700_000_000


def test_a_shorter_interval_takes_effect_at_once(scheduler: Scheduler, redis: Redis) -> None:
    day = Entry(id="minute", type=beat.name, seconds=86_400, payload={"hand": "a"})
    scheduler.entries.declare([day], prune=True)
    redis.zrem(DUE, "minute")
    scheduler.entries.declare([day], prune=True)
    scheduler.entries.declare([replace(day, seconds=60)], prune=True)
    assert due(redis, "minute") - now(redis) <= 60


def test_an_entry_that_is_no_longer_declared_is_gone(scheduler: Scheduler, redis: Redis) -> None:
    kept = [entry for entry in scheduler.declared() if entry.id == "minute"]
    scheduler.entries.declare(kept, prune=False)
    assert scheduler.count() == 2
    scheduler.entries.declare(kept, prune=True)
    assert [entry.id for entry, _ in scheduler.entries.all()] == ["minute"]
    assert "second" not in scheduler
    assert "minute" in scheduler


def test_the_configuration_can_set_the_interval(server: JobServer) -> None:
    entry = Every(id="poll", seconds=5, job=beat, payload={"hand": "a"}, setting="poll_interval")
    server.registry.add_entry(entry)
    seconds = {entry.id: entry.seconds for entry in Scheduler(server).declared()}
    assert seconds["poll"] == server.config.poll_interval == 2


@dataclass(frozen=True, kw_only=True)
class Shift(Config):
    """A configuration with a setting in hours."""

    shift_hours: float = 0.5


def test_a_setting_in_hours_is_taken_as_hours(server: JobServer) -> None:
    server.config = Shift()
    entry = Every(id="shift", seconds=5, job=beat, payload={"hand": "a"}, setting="shift_hours")
    server.registry.add_entry(entry)
    seconds = {entry.id: entry.seconds for entry in Scheduler(server).declared()}
    assert seconds["shift"] == 1800


@pytest.mark.parametrize(
    "entry",
    [
        Entry(id="bad", type="ticking.unknown", seconds=60, payload={}),
        Entry(id="bad", type="ticking.beat", seconds=60, payload={"foot": 1}),
    ],
    ids=["unknown type", "wrong payload"],
)
def test_a_bad_entry_waits_and_holds_up_no_other(
    scheduler: Scheduler, redis: Redis, caplog: pytest.LogCaptureFixture, entry: Entry
) -> None:
    scheduler.entries.declare([entry, *scheduler.declared()], prune=True)
    moment = round(now(redis)) - 60
    let_be_due(redis, "bad", moment)
    let_be_due(redis, "minute", moment)
    redis.zrem(DUE, "second")
    assert len(scheduler.enqueue_jobs()) == 1
    assert scheduler.enqueue_jobs() == []
    assert int(redis.hget(state_key("bad"), "tick") or 0) == moment * 1000
    assert 0 < due(redis, "bad") - now(redis) <= PARKED
    let_be_due(redis, "bad", moment)
    scheduler.enqueue_jobs()
    assert [record.levelname for record in caplog.records].count("ERROR") == 1


def test_a_tick_whose_job_is_there_already_makes_no_second(
    scheduler: Scheduler, redis: Redis
) -> None:
    redis.zrem(DUE, "second")
    tick = due(redis, "minute") - 60
    let_be_due(redis, "minute", tick)
    scheduler.enqueue_jobs()
    let_be_due(redis, "minute", tick)  # as if the entries had been restored from a backup
    scheduler.enqueue_jobs()
    assert waiting(redis) == [f"minute-{tick:.0f}"]


def test_entries_are_json(scheduler: Scheduler, redis: Redis) -> None:
    kept = orjson.loads(redis.hget(ENTRIES, "minute") or b"")
    wanted = {"id": "minute", "type": "ticking.beat", "seconds": 60, "payload": {"hand": "minute"}}
    assert kept.items() >= wanted.items()
    assert Entry.from_json(orjson.dumps(wanted)).misfire == "once"  # as earlier releases wrote it


def test_no_inherited_method_reaches_entries(scheduler: Scheduler) -> None:
    stock = rq_scheduler.Scheduler
    harmless = {"key", "pid", "queue_class", "job_class"}
    inherited = {
        name
        for name, value in vars(stock).items()
        if (callable(value) or isinstance(value, property)) and not name.startswith("__init")
    }
    assert inherited - set(vars(Scheduler)) <= harmless | {"__dict__", "__weakref__"}
    for name, value in vars(stock).items():
        if isinstance(value, str) and not name.startswith("__"):
            assert getattr(Scheduler, name) != value, name
    for name in ("schedule", "cron", "enqueue_at", "enqueue_in", "get_jobs", "cancel"):
        with pytest.raises(JobServerError, match="Every"):
            getattr(scheduler, name)()
    assert inspect.isfunction(Scheduler.run)


def test_schedulers_are_known_while_they_live(scheduler: Scheduler, redis: Redis) -> None:
    scheduler.heartbeat()
    entries = Entries(scheduler.server.broker)
    assert entries.schedulers()[scheduler.name] == pytest.approx(now(redis), abs=5)
    assert redis.ttl(scheduler.key) in range(1, 16)
    scheduler.register_death()
    assert entries.schedulers() == {}
    assert not redis.exists(scheduler.key)


def test_one_pass_declares_and_ticks(server: JobServer, redis: Redis) -> None:
    scheduler = Scheduler(server)
    scheduler.run(burst=True)
    let_be_due(redis, "minute", now(redis) - 60)
    scheduler.run(burst=True)
    assert any(job.startswith("minute-") for job in waiting(redis))
    assert set(dict(scheduler.entries.schedulers())) == {scheduler.name}


def test_a_chore_says_once_that_it_fails(caplog: pytest.LogCaptureFixture) -> None:
    errors: list[Exception | None] = [None, OSError("a"), OSError("b"), ValueError("c"), None, None]

    def step() -> None:
        if (error := errors.pop(0)) is not None:
            raise error

    chore = Chore("sweeping", step)
    with caplog.at_level(logging.WARNING):
        assert [chore.attempt() for _ in range(6)] == [True, False, False, False, True, True]
    assert [record.getMessage() for record in caplog.records] == [
        "sweeping fails, will be tried again: a",
        "sweeping fails, will be tried again: c",
        "sweeping works again",
    ]
