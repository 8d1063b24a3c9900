"""How fast the ledger finds runs: 1,000,000 of them, on SQLite and PostgreSQL."""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, text

from benchmarks.measure import Report
from jobserver.ledger import dead_letters, migrate, runs
from jobserver.ledger.models import runs as table
from jobserver.ledger.runs import Sought
from tests import databases

RUNS = 1_000_000
SEED = 7
STEP = 1000  # ms between runs
SECONDS = datetime(2026, 1, 1, tzinfo=UTC)
TIMES = 3  # each search; the first page is asked for with nothing of it in memory yet
STATES = {"completed": 970, "failed": 20, "canceled": 6, "waiting": 3, "active": 1}
QUEUES = 14

FIRST = SECONDS + timedelta(days=3)
SEARCHES = {
    "all": Sought(),
    "type": Sought(type="system-2.job-1"),
    "rare type": Sought(type="system-9.rare"),
    "queue": Sought(queue="queue-5"),
    "owner": Sought(owner="owner-17"),
    "key": Sought(key="key-77"),
    "job": Sought(job="job-4711"),
    "completed": Sought(state="completed"),
    "failed": Sought(state="failed"),
    "canceled": Sought(state="canceled"),
    "fingerprint": Sought(fingerprint=f"{1:016x}"),
    "rare fingerprint": Sought(fingerprint=f"{190:016x}"),
    "time": Sought(enqueued_from=FIRST, enqueued_before=FIRST + timedelta(hours=1)),
    "since": Sought(enqueued_from=FIRST),
    "error": Sought(error="order 77"),
    "type and queue": Sought(type="system-2.job-1", queue="queue-2"),
    "type and failed": Sought(type="system-9.rare", state="failed"),
    "queue and failed": Sought(queue="queue-13", state="failed"),
    "queue and completed": Sought(queue="queue-13", state="completed"),
    "owner and failed": Sought(owner="owner-17", state="failed"),
    "owner and queue": Sought(owner="owner-17", queue="queue-13"),
    "owner and type": Sought(owner="owner-17", type="system-13.rare"),
    "fingerprint and queue": Sought(fingerprint=f"{1:016x}", queue="queue-13"),
    "queue and time": Sought(queue="queue-13", enqueued_before=FIRST),
    "failed and time": Sought(state="failed", enqueued_before=FIRST),
    "failed, queue and error": Sought(state="failed", queue="queue-0", error="order 77"),
    "dead letters": Sought(is_dead=True),
    "dead letters of a group": Sought(is_dead=True, fingerprint=f"{1:016x}"),
}


def run(report: Report) -> None:
    """Search each kind of database."""
    with tempfile.TemporaryDirectory() as folder:
        search(report, f"sqlite:///{folder}/ledger.db")
    with tempfile.TemporaryDirectory() as folder, databases.postgresql(Path(folder)) as url:
        search(report, url)


def search(report: Report, url: str) -> None:
    """Fill a database and time the first page and a deep one of every search."""
    engine = databases.host_engine(url)
    migrate(engine)
    fill(engine, count=RUNS)
    kind = engine.dialect.name
    slowest: dict[str, float] = {}
    for name, sought in SEARCHES.items():
        slowest[name] = _timed(lambda sought=sought: runs.find(engine, sought))
        deep = _id_of(RUNS // 2)
        slowest[f"{name}, deep"] = _timed(
            lambda sought=sought, deep=deep: runs.find(engine, sought, before=deep)
        )
    for name, took in sorted(slowest.items(), key=lambda pair: -pair[1])[:8]:
        print(f"     {kind}, {name}: {took * 1000:.1f} ms")
    report.figure(
        f"slowest of {len(slowest)} searches in {RUNS:,} runs, {kind}",
        max(slowest.values()) * 1000,
        at_most=50,
        unit=" ms",
    )
    took = _timed(lambda: dead_letters.groups(engine, replace(Sought(), is_dead=True)))
    report.figure(f"groups of 20,000 dead letters, {kind}", took * 1000, at_most=100, unit=" ms")
    engine.dispose()


def fill(engine: Engine, *, count: int) -> None:
    """Write so many runs, in the way that each kind of database takes them fastest."""
    names = [column.name for column in table.columns]
    began = time.perf_counter()
    raw: Any = engine.raw_connection()
    if engine.dialect.name == "sqlite":
        marks = ", ".join("?" * len(names))
        raw.execute("BEGIN")
        raw.executemany(
            f"INSERT INTO {table.name} ({', '.join(names)}) VALUES ({marks})",
            ([_plain(row.get(name)) for name in names] for row in rows(count)),
        )
    else:
        with raw.cursor().copy(f"COPY {table.name} ({', '.join(names)}) FROM STDIN") as copy:
            for row in rows(count):
                copy.write_row([row.get(name) for name in names])
    raw.commit()
    raw.close()
    if engine.dialect.name == "postgresql":  # its autovacuum would, within the minute
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text(f"VACUUM ANALYZE {table.name}"))
    print(f"     {engine.dialect.name}: {count:,} runs in {time.perf_counter() - began:.0f} s")


def rows(count: int) -> Iterator[dict[str, Any]]:
    """Return runs as one busy application makes them: some queues and types are rare."""
    chance = random.Random(SEED)  # noqa: S311
    states, weights = list(STATES), list(STATES.values())
    shares = [2 ** (-number / 2) for number in range(QUEUES)]
    for number in range(count):
        queue = chance.choices(range(QUEUES), shares)[0]
        kind = "rare" if chance.random() < 0.0001 else f"job-{chance.randrange(3)}"
        key = f"key-{chance.randrange(50_000)}" if chance.random() < 0.3 else None
        state = chance.choices(states, weights)[0]
        is_failed = state == "failed"
        moment = SECONDS + timedelta(milliseconds=STEP * number)
        group = int(chance.paretovariate(1)) % 200
        yield {
            "run": _id_of(number),
            "job": key or f"job-{number}",
            "type": f"system-{queue}.{kind}",
            "queue": f"queue-{queue}",
            "priority": "normal",
            "key": key,
            "owner": f"owner-{chance.randrange(2000)}" if chance.random() < 0.5 else None,
            "state": state,
            "attempt": 1,
            "attempts": 3,
            "enqueued_at": moment,
            "started_at": moment,
            "ended_at": moment,
            "wait_ms": 12,
            "run_ms": 130,
            "worker": "host-1.4711.d2a1",
            "host": "host-1",
            "result": '{"synced": 12, "skipped": 0, "errors": 0}',
            "error_type": "ValueError" if is_failed else None,
            "error_message": f"order {number} has no vendor" if is_failed else None,
            "reason": "error" if is_failed else None,
            "fingerprint": f"{group:016x}" if is_failed else None,
            "payload": f'{{"follow_id": {number}, "source_shop_id": 17, "mode": "resell"}}',
        }


def _id_of(number: int) -> str:
    milliseconds = int(SECONDS.timestamp() * 1000) + STEP * number
    return f"{milliseconds:011x}{number:012x}"


def _plain(value: Any) -> Any:
    return value.strftime("%Y-%m-%d %H:%M:%S.%f") if isinstance(value, datetime) else value


def _timed(ask: Any) -> float:
    took = []
    for _ in range(TIMES):
        began = time.perf_counter()
        ask()
        took.append(time.perf_counter() - began)
    return max(took)
