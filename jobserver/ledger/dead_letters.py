"""Dead letters: failed runs that nobody has discarded and whose jobs have not run since."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import func, select, update

from jobserver.ledger import runs
from jobserver.ledger.database import database
from jobserver.ledger.models import DEAD
from jobserver.ledger.models import runs as rows
from jobserver.ledger.runs import Run, Sought


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """Dead letters of one fingerprint; `example` is the one that was enqueued last."""

    fingerprint: str
    count: int
    first_seen: datetime
    last_seen: datetime
    example: Run


def groups(
    db: object, sought: Sought, *, before: str | None = None, limit: int = 50
) -> tuple[list[Group], str | None]:
    """Return the groups of the dead letters that are sought, that with the newest first.

    With them comes the run behind which to go on, None at the end. Raises NoDatabase,
    DatabaseUnavailable, NotMigrated.
    """
    newest = func.max(rows.c.run)
    query = (
        select(
            rows.c.fingerprint,
            func.count().label("count"),
            func.min(rows.c.ended_at).label("first_seen"),
            func.max(rows.c.ended_at).label("last_seen"),
            newest.label("newest"),
        )
        .where(DEAD, rows.c.fingerprint.is_not(None), *runs.conditions(sought, rows.c))
        .group_by(rows.c.fingerprint)
        .order_by(newest.desc())
        .limit(limit + 1)
    )
    if before is not None:
        query = query.having(newest < before)
    with database(db) as engine, engine.connect() as connection:
        found = connection.execute(query).mappings().all()
        shown = found[:limit]
        examples = runs.get_many(connection, [row["newest"] for row in shown])
    items = [
        Group(
            fingerprint=row["fingerprint"],
            count=row["count"],
            first_seen=row["first_seen"],
            last_seen=row["last_seen"],
            example=examples[row["newest"]],
        )
        for row in shown
    ]
    return items, shown[-1]["newest"] if len(found) > limit else None


def find(
    db: object, fingerprint: str, *, before: str | None = None, limit: int = 50
) -> tuple[list[Run], str | None]:
    """Return the dead letters of one fingerprint as `runs.find` does."""
    sought = Sought(fingerprint=fingerprint, is_dead=True)
    return runs.find(db, sought, before=before, limit=limit)


def settle(db: object, ids: Sequence[str]) -> int:
    """Let these runs be dead letters no more; return how many were. Raises as `groups` does."""
    with database(db) as engine, engine.begin() as connection:
        settled = connection.execute(
            update(rows).where(rows.c.run.in_(ids), DEAD).values(settled_at=datetime.now(UTC))
        )
    return settled.rowcount
