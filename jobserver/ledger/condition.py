"""The condition of the databases: whether they answer, are migrated, and what waits in them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Engine, inspect
from sqlalchemy.exc import SQLAlchemyError

from jobserver.ledger.migrate import is_current
from jobserver.ledger.models import VERSION_TABLE
from jobserver.ledger.outbox import Outbox, engines


@dataclass(frozen=True, kw_only=True, slots=True)
class Condition:
    """A database: its bind key, None for the default one; `error` is why it cannot be asked.

    `pending` rows of its outbox wait to be pushed, the first since `oldest`.
    """

    bind: str | None
    error: str | None = None
    is_migrated: bool = True
    pending: int = 0
    oldest: datetime | None = None


def conditions(db: object, outbox: Outbox) -> list[Condition]:
    """Return the condition of each database of a host; Flask-SQLAlchemy needs an app context."""
    return [_condition(bind, engine, outbox) for bind, engine in engines(db).items()]


def _condition(bind: str | None, engine: Engine, outbox: Outbox) -> Condition:
    try:
        if bind is not None and not inspect(engine).has_table(VERSION_TABLE):
            return Condition(bind=bind)  # only the host's own tables are there
        if not is_current(engine):
            return Condition(bind=bind, is_migrated=False)
        pending, oldest = outbox.pending(engine)
        return Condition(bind=bind, pending=pending, oldest=oldest)
    except SQLAlchemyError as error:
        return Condition(bind=bind, error=str(getattr(error, "orig", None) or error))
