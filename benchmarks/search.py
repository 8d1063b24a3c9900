"""How fast the ledger finds runs: 1,000,000 of them, on SQLite and PostgreSQL."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sqlalchemy import Engine, text

from benchmarks import ledger
from benchmarks.measure import Report
from jobserver.ledger import dead_letters, runs
from jobserver.ledger.runs import Sought

RUNS = 1_000_000
TIMES = 5  # each search; the median counts
AT_MOST = 50  # ms

# One in 4,096 is of a queue and type of its own, one in 256 was canceled, one in 4,096 waits.
RARITIES = (
    "UPDATE jobserver_run SET type = 'rare.type', queue = 'rare' WHERE run LIKE '%000'",
    "UPDATE jobserver_run SET fingerprint = 'rare' WHERE run LIKE '%0f' AND state = 'failed'",
    "UPDATE jobserver_run SET state = 'canceled' WHERE run LIKE '%01' AND state = 'completed'",
    "UPDATE jobserver_run SET state = 'waiting' WHERE run LIKE '%002' AND state = 'completed'",
)
MONTH_AGO = datetime.now(UTC) - timedelta(seconds=ledger.SPAN)
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
            ledger.fill(engine, RUNS)
            spoil(engine)
            search(report, kind, engine)


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
