"""Many rows in one statement: insert those that are new, update the others."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from functools import cache
from operator import attrgetter
from typing import Any

import orjson
from sqlalchemy import BigInteger, Column, Connection, Integer, Table, text

from jobserver.ledger.models import UtcDateTime

_NUL = re.compile(rb"(?<!\\)((?:\\\\)*)\\u0000")


def upsert(
    connection: Connection,
    table: Table,
    rows: Sequence[object],
    *,
    keep: Collection[str] = (),
    add: Collection[str] = (),
) -> None:
    """Write rows, each another one: objects with an attribute per column, times in Unix ms.

    Of a row that is there the columns in `keep` stay as they are, and those in `add` are added to.
    NUL characters, which PostgreSQL refuses, become U+FFFD.
    """
    if not rows:
        return
    columns = tuple(column.name for column in table.columns if hasattr(rows[0], column.name))
    if connection.dialect.name == "postgresql":
        # One parameter, whatever driver the host has: binding each value costs the client more
        # than all the rest.
        statement = _from_json(table, columns, frozenset(keep), frozenset(add))
        connection.execute(text(statement), {"rows": _json(rows)})
    else:
        values = attrgetter(*columns)
        statement = _from_values(table, columns, frozenset(keep), frozenset(add))
        connection.exec_driver_sql(statement, [values(row) for row in rows])


def _json(rows: Sequence[object]) -> str:
    data = orjson.dumps(rows)
    if b"\\u0000" in data:
        data = _NUL.sub(rb"\1\\ufffd", data)
    return data.decode()


@cache
def _from_json(
    table: Table, columns: tuple[str, ...], keep: frozenset[str], add: frozenset[str]
) -> str:
    typed = ", ".join(f'"{name}" {_json_type(table.c[name])}' for name in columns)
    values = ", ".join(
        f'to_timestamp("{name}" / 1000.0)' if _is_time(table.c[name]) else f'"{name}"'
        for name in columns
    )
    # Names of our own tables and columns are all that is put together here.
    source = f"SELECT {values} FROM json_to_recordset(CAST(:rows AS json)) AS given ({typed})"  # noqa: S608
    return _insert(table, columns, source, keep, add)


@cache
def _from_values(
    table: Table, columns: tuple[str, ...], keep: frozenset[str], add: frozenset[str]
) -> str:
    # As SQLAlchemy writes times for SQLite, with six digits.
    values = ", ".join(
        "strftime('%Y-%m-%d %H:%M:%f000', ? / 1000.0, 'unixepoch')"
        if _is_time(table.c[name])
        else "?"
        for name in columns
    )
    return _insert(table, columns, f"VALUES ({values})", keep, add)


def _insert(
    table: Table,
    columns: tuple[str, ...],
    source: str,
    keep: frozenset[str],
    add: frozenset[str],
) -> str:
    names = ", ".join(f'"{name}"' for name in columns)
    key = [column.name for column in table.primary_key]
    changed = ", ".join(
        f'"{name}" = ' + (f'{table.name}."{name}" + ' if name in add else "") + f'excluded."{name}"'
        for name in columns
        if name not in {*key, *keep}
    )
    return (
        f"INSERT INTO {table.name} ({names}) {source} "
        f"ON CONFLICT ({', '.join(key)}) DO UPDATE SET {changed}"
    )


def _is_time(column: Column[Any]) -> bool:
    return isinstance(column.type, UtcDateTime)


def _json_type(column: Column[Any]) -> str:
    return "bigint" if _is_time(column) or isinstance(column.type, BigInteger | Integer) else "text"
