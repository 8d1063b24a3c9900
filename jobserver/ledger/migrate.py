"""Bring the engine's tables up to date, beside the host's own Alembic history."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Connection, Engine, text

from jobserver.ledger.models import VERSION_TABLE

_SCRIPTS = Path(__file__).parent / "migrations"
_LOCK = 5_702_741_311  # any number that no other program takes as its PostgreSQL advisory lock


def migrate(engine: Engine) -> None:
    """Run the migrations that this database lacks; may be repeated, and by several at once."""
    from alembic import command
    from alembic.config import Config

    config = Config()
    # Alembic's option parser reads "%" as the start of an interpolation.
    config.set_main_option("script_location", str(_SCRIPTS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    with engine.begin() as connection:
        _lock(connection)
        config.attributes["connection"] = connection
        command.upgrade(config, "head")


def is_current(engine: Engine) -> bool:
    """Return whether this database has all migrations of this version; raises SQLAlchemy's errors.

    One that a later version has migrated has not.
    """
    from alembic.migration import MigrationContext
    from alembic.script import ScriptDirectory

    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
        heads = ScriptDirectory(str(_SCRIPTS)).get_heads()
        return set(context.get_current_heads()) == set(heads)


def _lock(connection: Connection) -> None:
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
    elif connection.dialect.name == "sqlite":
        # The host's engine may have begun a transaction, which is no lock; the driver begins none.
        driver = connection.connection.dbapi_connection
        if driver is not None and driver.in_transaction:
            connection.exec_driver_sql("ROLLBACK")
        connection.exec_driver_sql("BEGIN IMMEDIATE")
