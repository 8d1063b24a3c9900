"""The last lines that each run logged: as many as Redis keeps, for as long as the run is kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from sqlalchemy import Connection, delete, select

from jobserver.ledger.bulk import upsert
from jobserver.ledger.database import database
from jobserver.ledger.models import lines


@dataclass(frozen=True, kw_only=True, slots=True)
class Written:
    """Lines that a run wrote at once, as JSON; the numbers of the first and of the oldest kept."""

    run: str
    first: int
    oldest: int
    lines: str


@dataclass(frozen=True, slots=True)
class _Row:
    run: str
    number: int
    line: str


def add(connection: Connection, written: Sequence[Written]) -> None:
    """Write lines, and delete those that are too old beside them."""
    oldest = {one.run: one.oldest for one in written}
    rows = [
        _Row(one.run, number, orjson.dumps(line).decode())
        for one in written
        for number, line in enumerate(orjson.loads(one.lines), one.first)
        if number >= oldest[one.run]
    ]
    upsert(connection, lines, rows)
    for run, number in oldest.items():
        if number > 1:
            connection.execute(delete(lines).where(lines.c.run == run, lines.c.number < number))


def of_run(db: object, run: str) -> list[tuple[int, dict[str, Any]]]:
    """Return the lines of a run with their numbers; raises NoDatabase, DatabaseUnavailable."""
    query = select(lines.c.number, lines.c.line).where(lines.c.run == run).order_by(lines.c.number)
    with database(db) as engine, engine.connect() as connection:
        return [(row.number, orjson.loads(row.line)) for row in connection.execute(query)]
