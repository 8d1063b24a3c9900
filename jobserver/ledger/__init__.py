"""The engine's own SQL tables: the outbox now, the record of all runs later."""

from jobserver.ledger.migrate import migrate
from jobserver.ledger.models import metadata, owns_table
from jobserver.ledger.outbox import Outbox, engines

__all__ = ["Outbox", "engines", "metadata", "migrate", "owns_table"]
