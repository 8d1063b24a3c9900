"""How fast the ledger finds runs: 1,000,000 of them, on SQLite and PostgreSQL."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sqlalchemy import Engine, insert, select, text

from benchmarks import ledger
from benchmarks.measure import Report
from jobserver.ledger import dead_letters, runs
from jobserver.ledger.models import attempts
from jobserver.ledger.models import runs as table
from jobserver.ledger.runs import Sought
from jobserver.policy import DAY

RUNS = 1_000_000
SPAN = 30 * DAY  # of the runs
TIMES = 5  # each search; the median counts
AT_MOST = 50  # ms

# One in 4,096 is of a queue and type of its own, one in 256 was canceled, one in 4,096 waits.
RARITIES = (
    "UPDATE jobserver_run SET type = 'rare.type', queue = 'rare' WHERE run LIKE '%000'",
    "UPDATE jobserver_run SET fingerprint = 'rare' WHERE run LIKE '%0f' AND state = 'failed'",
    "UPDATE jobserver_run SET state = 'canceled' WHERE run LIKE '%01' AND state = 'completed'",
    "UPDATE jobserver_run SET state = 'waiting' WHERE run LIKE '%002' AND state = 'completed'",
)
MONTH_AGO = datetime.now(UTC) - timedelta(seconds=SPAN)
WEEK_AGO = MONTH_AGO + timedelta(days=23)

SEARCHES = {
    "all": Sought(),
    "type": Sought(type="system.type_7"),
    "rare type": Sought(type="rare.type"),
    "queue": Sought(queue="queue-5"),
    "owner": Sought(owner="owner-17"),
    "key": Sought(key="key-75"),
    "job": Sought(job="key-75"),
    "completed": Sought(state="completed"),
    "failed": Sought(state="failed"),
    "canceled": Sought(state="canceled"),
    "waiting": Sought(state="waiting"),
    "fingerprint": Sought(fingerprint="print-7"),
    "rare fingerprint": Sought(fingerprint="rare"),
    "time": Sought(enqueued_from=WEEK_AGO, enqueued_before=WEEK_AGO + timedelta(hours=1)),
    "since": Sought(enqueued_from=WEEK_AGO),
    "error": Sought(error="shop 77"),
    "type and queue": Sought(type="system.type_7", queue="queue-7"),
    "type and failed": Sought(type="rare.type", state="failed"),
    "queue and failed": Sought(queue="rare", state="failed"),
    "queue and completed": Sought(queue="queue-5", state="completed"),
    "queue and canceled": Sought(queue="rare", state="canceled"),
    "owner and failed": Sought(owner="owner-17", state="failed"),
    "owner and queue": Sought(owner="owner-17", queue="rare"),
    "owner and type": Sought(owner="owner-17", type="rare.type"),
    "fingerprint and queue": Sought(fingerprint="print-7", queue="rare"),
    "queue and time": Sought(queue="queue-5", enqueued_before=WEEK_AGO),
    "failed and time": Sought(state="failed", enqueued_before=WEEK_AGO),
    "failed, queue and error": Sought(state="failed", queue="queue-5", error="shop 77"),
    "dead letters": Sought(is_dead=True),
    "dead letters of a queue": Sought(is_dead=True, queue="rare"),
    "dead letters of a group": Sought(is_dead=True, fingerprint="print-7"),
}


def run(report: Report) -> None:
    """Search each kind of database."""
    for kind in ledger.KINDS:
        with (
            tempfile.TemporaryDirectory() as folder,
            ledger.database(kind, Path(folder)) as engine,
        ):
            fill(engine, RUNS)
            spoil(engine)
            search(report, kind, engine)


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
    for index in table.indexes:
        index.drop(engine)
    with engine.begin() as connection:
        source = f"SELECT {', '.join(values.values())} FROM {numbers.format(count)} AS n(i)"
        if is_sqlite:
            source = source.removesuffix(" AS n(i)")
        connection.execute(text(f"INSERT INTO {table.name} ({', '.join(values)}) {source}"))
        for number in (1, 2, 3):
            spent = select(
                table.c.run,
                text(str(number)),
                table.c.ended_at,
                text("'retried'" if number < 3 else "'failed'"),
                table.c.error_type,
                text("'Traceback (most recent call last): …'"),
            ).where(table.c.state == "failed")
            columns = ["run", "number", "ended_at", "outcome", "error_type", "traceback"]
            connection.execute(insert(attempts).from_select(columns, spent))
    for index in table.indexes:
        index.create(engine)
    with engine.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT").execute(text("ANALYZE"))


def spoil(engine: Engine) -> None:
    """Make some runs rare: an even mixture flatters every search."""
    with engine.begin() as connection:
        for rarity in RARITIES:
            connection.execute(text(rarity))
    if engine.dialect.name == "postgresql":  # what its autovacuum would do within the minute
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("VACUUM ANALYZE jobserver_run"))


def search(report: Report, kind: str, engine: Engine) -> None:
    """Time the first page and a deep one of every search, and the groups of dead letters."""
    with engine.connect() as connection:
        half = f"SELECT run FROM jobserver_run ORDER BY run LIMIT 1 OFFSET {RUNS // 2}"
        deep: str = connection.execute(text(half)).scalar_one()
    took: dict[str, float] = {}
    for name, sought in SEARCHES.items():
        for page, before in ((name, None), (f"{name}, deep", deep)):
            took[page] = _took(
                lambda sought=sought, before=before: runs.find(engine, sought, before=before)
            )
    for name, seconds in sorted(took.items(), key=lambda pair: -pair[1])[:5]:
        print(f"     {kind}, {name}: {seconds * 1000:.1f} ms")
    report.figure(
        f"slowest of {len(took)} searches in {RUNS:,} runs, {kind}",
        max(took.values()) * 1000,
        at_most=AT_MOST,
        unit=" ms",
    )
    grouped = _took(lambda: dead_letters.groups(engine, Sought()))
    report.figure(f"groups of dead letters, {kind}", grouped * 1000, at_most=AT_MOST, unit=" ms")


def _took(ask: Callable[[], object]) -> float:
    took = []
    for _ in range(TIMES):
        began = time.perf_counter()
        ask()
        took.append(time.perf_counter() - began)
    return statistics.median(took)
