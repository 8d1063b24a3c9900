"""Alembic's entry to the engine's migrations; `migrate.py` hands it the connection."""

from alembic import context

from jobserver.ledger.models import VERSION_TABLE, metadata, owns_table

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=VERSION_TABLE,
    include_name=lambda name, kind, _parents: kind != "table" or owns_table(name),
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
