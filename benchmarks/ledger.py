"""The ledger: how fast runs are recorded, what that costs, and a ledger full of runs to search."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Engine, func, insert, select, text

from benchmarks.measure import Report, valkey
from jobserver.ledger import migrate
from jobserver.ledger.models import attempts, runs
from jobserver.policy import DAY
from jobserver.recorder import Recorder
from jobserver.server import Server
from tests import databases
from tests.hands import Hand

RUNS = 20_000
KINDS = ("postgresql", "sqlite")
RATES = {"postgresql": 5_000, "sqlite": 3_000}  # runs per second that are to be recorded
SPAN = 30 * DAY  # of the runs that `fill` makes


def run(report: Report) -> None:
    """Record runs of one attempt in each database."""
    for kind in KINDS:
        with tempfile.TemporaryDirectory() as directory, database(kind, Path(directory)) as engine:
            _record(report, kind, engine)


@contextmanager
def database(kind: str, directory: Path) -> Iterator[Engine]:
    """Make an empty ledger: of `postgresql` or `sqlite`, as hosts have it."""
    if kind == "sqlite":
        engine = databases.host_engine(f"sqlite:///{directory / 'ledger.db'}")
        migrate(engine)
        yield engine
        engine.dispose()
        return
    with databases.postgresql(directory) as url:
        engine = databases.host_engine(url)
        migrate(engine)
        yield engine
        engine.dispose()


def fill(engine: Engine, count: int) -> None:
    """Add runs of the last 30 days: 30 types in 14 queues, 1,000 owners, every 33rd has failed.

    A fifth has one of 10,000 keys; a failed run has three attempts and one of 50 fingerprints. A
    million takes a minute: the indexes are made at the end.
    """
    is_sqlite = engine.dialect.name == "sqlite"
    numbers = "(WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < {0} - 1)"
    numbers = f"{numbers} SELECT i FROM n)" if is_sqlite else "generate_series(0, {0} - 1)"
    first, step = int((time.time() - SPAN) * 1000), SPAN * 1000 / count
    ms = f"CAST({first} + i * {step} AS BIGINT)"
    name = f"printf('%011x%012x', {ms}, i)"
    moment = f"strftime('%Y-%m-%d %H:%M:%f000', ({ms}) / 1000.0, 'unixepoch')"
    if not is_sqlite:
        name = f"lpad(to_hex({ms}), 11, '0') || lpad(to_hex(i), 12, '0')"
        moment = f"to_timestamp(({ms}) / 1000.0)"
    has_failed = "i % 33 = 0"
    values = {
        "run": name,
        "job": f"CASE WHEN i % 5 = 0 THEN 'key-' || CAST(i % 10000 AS TEXT) ELSE {name} END",
        "type": "'system.type_' || CAST(i * 7 % 30 AS TEXT)",
        "queue": "'queue-' || CAST(i * 7 % 30 % 14 AS TEXT)",
        "priority": "'normal'",
        "key": "CASE WHEN i % 5 = 0 THEN 'key-' || CAST(i % 10000 AS TEXT) END",
        "owner": "'owner-' || CAST(i * 11 % 1000 AS TEXT)",
        "state": f"CASE WHEN {has_failed} THEN 'failed' ELSE 'completed' END",
        "attempt": f"CASE WHEN {has_failed} THEN 3 ELSE 1 END",
        "attempts": "3",
        "enqueued_at": moment,
        "started_at": moment,
        "ended_at": moment,
        "wait_ms": "i % 1000",
        "run_ms": "i % 777",
        "worker": "'worker-' || CAST(i % 8 AS TEXT)",
        "host": "'host-' || CAST(i % 4 AS TEXT)",
        "result": f"CASE WHEN NOT {has_failed} THEN '{{\"sent\":' || CAST(i AS TEXT) || '}}' END",
        "error_type": f"CASE WHEN {has_failed} THEN 'ValueError' END",
        "error_message": f"CASE WHEN {has_failed} THEN 'no shop ' || CAST(i AS TEXT) END",
        "reason": f"CASE WHEN {has_failed} THEN 'error' END",
        "fingerprint": f"CASE WHEN {has_failed} THEN 'print-' || CAST(i / 33 % 50 AS TEXT) END",
        "payload": '\'{"shop_id":\' || CAST(i AS TEXT) || \',"reason":"order confirmed"}\'',
    }
    for index in runs.indexes:
        index.drop(engine)
    with engine.begin() as connection:
        source = f"SELECT {', '.join(values.values())} FROM {numbers.format(count)} AS n(i)"
        if is_sqlite:
            source = source.removesuffix(" AS n(i)")
        connection.execute(text(f"INSERT INTO {runs.name} ({', '.join(values)}) {source}"))
        for number in (1, 2, 3):
            spent = select(
                runs.c.run,
                text(str(number)),
                runs.c.ended_at,
                text("'retried'" if number < 3 else "'failed'"),
                runs.c.error_type,
                text("'Traceback (most recent call last): …'"),
            ).where(runs.c.state == "failed")
            columns = ["run", "number", "ended_at", "outcome", "error_type", "traceback"]
            connection.execute(insert(attempts).from_select(columns, spent))
    for index in runs.indexes:
        index.create(engine)
    with engine.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT").execute(text("ANALYZE"))


def _record(report: Report, kind: str, engine: Engine) -> None:
    with valkey() as url, tempfile.TemporaryDirectory() as instance:
        os.environ.update(REDIS_URL=url, JOBSERVER_INSTANCE=instance)
        from benchmarks.app import create_app

        server = create_app().extensions["jobserver"]
        recorder = Recorder(server, engine)
        _lead(server, RUNS)
        began, cpu = time.perf_counter(), time.process_time()
        recorder.work()
        took, cpu = time.perf_counter() - began, time.process_time() - cpu
        with engine.connect() as connection:
            assert connection.scalar(select(func.count()).select_from(runs)) == RUNS
        report.figure(f"runs recorded in {kind}", RUNS / took, at_least=RATES[kind], unit="/s")
        report.figure(f"recorder's CPU per run, {kind}", 1e6 * cpu / RUNS, at_most=150, unit=" µs")
        recorder.close()


def _lead(server: Server, jobs: int) -> None:
    """Lead jobs to their end, those of a worker with many slots."""
    queue = server.registry.job_type("tasks.noop").queue
    hand = Hand(server.broker, [queue])
    done = 0
    while done < jobs:
        server.enqueue_many("tasks.noop", [{"a": 1, "b": "some text"}] * 1000)
        for _ in range(10):
            claims = hand.claim(threads=100)
            hand.end_many([(claim, "completed") for claim in claims])
            done += len(claims)
