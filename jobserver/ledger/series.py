"""How queues did, minute by minute for two days and in all: ends, failures, waits and runs.

Kept as histograms, which add up: over the runs of a batch, over minutes, over recorders.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal, NamedTuple

from sqlalchemy import Connection, Engine, delete, func, select

from jobserver.broker import Broker, metrics
from jobserver.histogram import BUCKETS, Histogram, bucket_of
from jobserver.ledger.bulk import upsert
from jobserver.ledger.database import database
from jobserver.ledger.models import position, series
from jobserver.policy import DAY, MINUTE

KEPT_MINUTES = int(2 * DAY / MINUTE)
EVER = 0  # the minute whose rows are of all time


class End(NamedTuple):
    """A run that ended `at` a time (Unix ms), and what it had waited and run (ms), if it did."""

    queue: str
    state: Literal["completed", "failed"]
    at: int
    wait_ms: int | None
    run_ms: int | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """A queue in the minute from `at` on: how many jobs ended, how long they had waited and ran."""

    at: datetime
    completed: int
    failed: int
    wait: Histogram
    run: Histogram


@dataclass(slots=True)
class _Row:
    minute: int
    queue: str
    what: str
    bucket: int
    n: int = 0
    ms: int = 0


@dataclass
class _Cell:
    counts: list[int] = field(default_factory=lambda: [0] * BUCKETS)
    ms: int = 0

    def add(self, bucket: int, n: int, ms: int) -> None:
        self.counts[bucket] += n
        self.ms += ms

    @property
    def histogram(self) -> Histogram:
        return Histogram(counts=self.counts, seconds=self.ms / 1000)


def add(connection: Connection, ends: Iterable[End]) -> None:
    """Count ends of runs, in the transaction that records them."""
    rows: dict[tuple[int, str, str, int], _Row] = {}
    for end in ends:
        lengths: list[tuple[str, int]] = [(end.state, end.run_ms or 0)]
        if end.wait_ms is not None:
            lengths.append(("wait", end.wait_ms))
        for what, ms in lengths:
            bucket = bucket_of(ms / 1000)
            for minute in (end.at // 60_000, EVER):
                key = (minute, end.queue, what, bucket)
                row = rows.get(key) or rows.setdefault(key, _Row(*key))
                row.n += 1
                row.ms += ms
    upsert(connection, series, list(rows.values()), add=("n", "ms"))


def points(db: object, queue: str, *, minutes: int, now: datetime) -> Sequence[Point]:
    """Return a queue's last minutes, the oldest first, the last one still running.

    Raises NoDatabase, DatabaseUnavailable, NotMigrated.
    """
    last = int(now.timestamp()) // 60
    first = last - minutes + 1
    # One by one, each is a look into the primary key; between two of them lie all other queues.
    asked = series.c.minute.in_(range(first, last + 1))
    query = select(series.c.minute, series.c.what, series.c.bucket, series.c.n, series.c.ms).where(
        series.c.queue == queue, asked
    )
    cells: dict[tuple[int, str], _Cell] = defaultdict(_Cell)
    with database(db) as engine, engine.connect() as connection:
        for minute, what, *row in connection.execute(query):
            cells[minute, what].add(*row)
    return [_point(minute, cells) for minute in range(first, last + 1)]


def ever(engine: Engine) -> tuple[str | None, Mapping[tuple[str, str], Histogram]]:
    """Return the histograms of all time by queue and what, and the event up to which they count.

    Both are of one moment; None: nothing was recorded yet.
    """
    recorded = select(position.c.position).scalar_subquery()
    query = select(
        recorded, series.c.queue, series.c.what, series.c.bucket, series.c.n, series.c.ms
    ).where(series.c.minute == EVER)
    cells: dict[tuple[str, str], _Cell] = defaultdict(_Cell)
    known: str | None = None
    with engine.connect() as connection:
        for recorded_at, queue, what, *row in connection.execute(query):
            known = recorded_at
            cells[queue, what].add(*row)
    return known, {of: cell.histogram for of, cell in cells.items()}


def publish(engine: Engine, broker: Broker) -> None:
    """Let scrapes find the histograms of all time in Redis; raises RedisUnavailable."""
    recorded, histograms = ever(engine)
    if recorded is not None:
        metrics.publish(broker, position=recorded, histograms=histograms)


def prune(engine: Engine, *, now: datetime | None = None) -> int:
    """Forget the minutes of more than two days ago, an hour's at a time; return how many rows."""
    last = int((now or datetime.now(UTC)).timestamp()) // 60 - KEPT_MINUTES
    oldest = select(func.min(series.c.minute)).where(series.c.minute > EVER)
    removed = 0
    while True:
        with engine.connect() as connection:
            first = connection.scalar(oldest)
        if first is None or first > last:
            return removed
        hour = series.c.minute.between(first, min(first + 59, last))
        with engine.begin() as connection:  # SQLite lets no transaction write that began to read
            removed += connection.execute(delete(series).where(hour)).rowcount


def _point(minute: int, cells: Mapping[tuple[int, str], _Cell]) -> Point:
    def histogram(what: str) -> Histogram:
        cell = cells.get((minute, what))
        return cell.histogram if cell else Histogram()

    completed, failed = histogram("completed"), histogram("failed")
    return Point(
        at=datetime.fromtimestamp(minute * 60, tz=UTC),
        completed=completed.count,
        failed=failed.count,
        wait=histogram("wait"),
        run=completed + failed,
    )
