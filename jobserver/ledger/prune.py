"""The ledger's own retention: by age and by count, a few rows at a time."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from sqlalchemy import ColumnElement, Connection, Engine, delete, func, select

from jobserver.ledger.database import database
from jobserver.ledger.models import attempts, lines, runs

BATCH = 500  # runs of one transaction
REST = 0.2  # seconds at most between two transactions, as long as the last one took

OF_A_RUN = [attempts, lines]  # tables whose rows go with their run


def prune(engine: Engine, *, days: float, most: int, now: datetime | None = None) -> int:
    """Forget runs that ended so many days ago, and the oldest ended ones beyond `most`.

    Runs that have not ended stay, however many. Returns how many went.
    Raises DatabaseUnavailable, NotMigrated.
    """
    before = (now or datetime.now(UTC)) - timedelta(days=days)
    ended = func.coalesce(runs.c.ended_at, runs.c.purged_at)
    # A run's id begins with when it was enqueued, so that no index by its end is needed.
    oldest = runs.c.run < f"{int(before.timestamp() * 1000):011x}"
    beyond = select(runs.c.run).order_by(runs.c.run.desc()).offset(most).limit(1)
    with database(engine):
        removed = _remove(engine, oldest & (ended < before))
        with engine.connect() as connection:
            last = connection.scalar(beyond)
        if last is not None:
            removed += _remove(engine, (runs.c.run <= last) & ended.is_not(None))
    return removed


def _remove(engine: Engine, which: ColumnElement[bool]) -> int:
    removed = 0
    query = select(runs.c.run).where(which).order_by(runs.c.run).limit(BATCH)
    while True:
        with engine.connect() as connection:
            found = connection.scalars(query).all()
        if not found:
            return removed
        began = time.monotonic()
        with engine.begin() as connection:  # SQLite lets no transaction write that began to read
            _forget(connection, found)
        removed += len(found)
        time.sleep(min(time.monotonic() - began, REST))


def _forget(connection: Connection, found: Sequence[str]) -> None:
    for table in (*OF_A_RUN, runs):
        connection.execute(delete(table).where(table.c.run.in_(found)))
