"""Run the application's migrations; those of the job server's own tables are its own affair."""

from collections.abc import Iterable

from alembic import context
from alembic.operations import MigrationScript
from alembic.runtime.migration import MigrationContext
from flask import current_app

from jobs.records import Base

migrate = current_app.extensions["migrate"]
engine = migrate.db.engine


def ours(name: str | None, kind: str, parents: object) -> bool:
    """Return whether a table found in the database is the application's."""
    return kind != "table" or name in Base.metadata.tables


def skip_when_empty(
    migration: MigrationContext,
    revision: str | Iterable[str | None] | Iterable[str],
    directives: list[MigrationScript],
) -> None:
    """Write no migration when the models are what the database is."""
    upgrade = directives[0].upgrade_ops if directives else None
    if upgrade is not None and upgrade.is_empty():
        directives.clear()


if context.is_offline_mode():
    context.configure(
        url=engine.url.render_as_string(hide_password=False),
        target_metadata=Base.metadata,
        literal_binds=True,
    )
    with context.begin_transaction():
        context.run_migrations()
else:
    with engine.connect() as connection:
        context.configure(
            connection=connection,
            target_metadata=Base.metadata,
            include_name=ours,
            process_revision_directives=skip_when_empty,
            **migrate.configure_args,
        )
        with context.begin_transaction():
            context.run_migrations()
