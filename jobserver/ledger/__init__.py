"""The engine's own SQL tables: outbox, tokens, actions, and the record of all runs."""

from jobserver.ledger.actions import Action, recorded
from jobserver.ledger.migrate import migrate
from jobserver.ledger.models import metadata, owns_table
from jobserver.ledger.outbox import Outbox, engines

__all__ = ["Action", "Outbox", "engines", "metadata", "migrate", "owns_table", "recorded"]
