"""The application's database: SQLite by default, PostgreSQL in production."""

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, cast

from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import Connection, Engine, MetaData, Table, event
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import DeclarativeBase, Session

BUSY_TIMEOUT = 5_000
"""How long, in milliseconds, a SQLite statement waits for another writer."""

LONGEST_REST = 0.2
"""How long, in seconds, jobs leave SQLite alone at most after one of them has written a batch."""

_WILL_WRITE = "jobs_will_write"


class Base(DeclarativeBase):
    """The base of every model; it names constraints, so that a migration can drop them."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(column_0_N_label)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


db = SQLAlchemy(metadata=Base.metadata)


def init_app(app: Flask) -> None:
    """Bind `db` to `app`; opens no connection. `app.config` holds SQLALCHEMY_DATABASE_URI."""
    db.init_app(app)
    with app.app_context():
        for engine in db.engines.values():
            if engine.dialect.name == "sqlite":
                _tune_sqlite(engine)


@contextmanager
def writing() -> Iterator[Session]:
    """Yield the session inside a transaction that will write; commit it, or roll it back on error.

    Whatever was read before is forgotten: under SQLite a transaction that began by reading can't
    be promoted to a writing one without the risk of SQLITE_BUSY_SNAPSHOT. Hold no HTTP or Redis
    call inside.
    """
    session = db.session()
    session.rollback()
    with _turn("turn"):
        session.connection(execution_options={_WILL_WRITE: True})
        try:
            yield session
            session.commit()
        except BaseException:
            session.rollback()
            raise


@contextmanager
def writing_in_background() -> Iterator[Session]:
    """As `writing`, for a job that writes one batch after another.

    Such jobs stand in a line of their own for a place in the other, so that a web request has at
    most one batch before it, however many jobs run. And whoever wrote rests for as long before the
    next one does: writers that know no line, the outbox's among them, would wait for seconds.
    """
    with _turn("background"):
        with writing() as session:
            started = time.monotonic()
            yield session
        if db.engine.dialect.name == "sqlite":
            time.sleep(min(time.monotonic() - started, LONGEST_REST))


@contextmanager
def _turn(line: str) -> Iterator[None]:
    """Stand in line for SQLite's one writer.

    Its own waiting keeps no queue: it looks again with pauses of up to 100 ms, and beside a few
    busy workers a web request would not get through for seconds.
    """
    url = db.engine.url
    if url.get_backend_name() != "sqlite" or url.database in (None, "", ":memory:"):
        yield
        return
    # Closing the file, which the end of the process does too, gives the lock back.
    with open(f"{url.database}-{line}", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def upsert(
    model: type[Base], *, key: tuple[str, ...], keep: tuple[str, ...] = ()
) -> postgresql.Insert | sqlite.Insert:
    """Return an INSERT of `model` that updates the row which has the same `key` columns.

    Columns in `keep` stay as they are in that row. Execute it with a list of rows, each naming
    every column that has no default.
    """
    return _upsert(model, key, keep, db.engine.dialect.name == "postgresql")


@cache
def _upsert(
    model: type[Base], key: tuple[str, ...], keep: tuple[str, ...], is_postgresql: bool
) -> postgresql.Insert | sqlite.Insert:
    table = cast(Table, model.__table__)
    insert = postgresql.insert(table) if is_postgresql else sqlite.insert(table)
    fixed = {*key, *keep, *(column.key for column in table.primary_key)}
    changed = {
        column.key: insert.excluded[column.key]
        for column in table.columns
        if column.key not in fixed
    }
    return insert.on_conflict_do_update(index_elements=list(key), set_=changed)


def _tune_sqlite(engine: Engine) -> None:
    """Write ahead, wait for other writers, keep foreign keys, and begin transactions ourselves.

    Left alone, Python 3.11's driver begins a transaction at its first write, never IMMEDIATE
    (docs.sqlalchemy.org, "SQLite", on transactions with SQLite and the sqlite3 driver).
    """

    @event.listens_for(engine, "connect")
    def on_connect(connection: Any, record: object) -> None:
        connection.isolation_level = None
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT}")
        cursor.execute("PRAGMA journal_mode = WAL")
        cursor.execute("PRAGMA synchronous = NORMAL")
        cursor.execute("PRAGMA foreign_keys = ON")
        cursor.close()

    @event.listens_for(engine, "begin")
    def on_begin(connection: Connection) -> None:
        will_write = connection.get_execution_options().get(_WILL_WRITE, False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if will_write else "BEGIN")
