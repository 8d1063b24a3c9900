"""The database that holds the engine's own tables, and its errors as ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Engine
from sqlalchemy.exc import OperationalError, ProgrammingError, SQLAlchemyError

from jobserver.errors import DatabaseUnavailable, NoDatabase, NotMigrated
from jobserver.ledger.models import PREFIX
from jobserver.ledger.outbox import engines


@contextmanager
def database(db: object) -> Iterator[Engine]:
    """Yield the default engine of what a host calls its db; Flask-SQLAlchemy needs an app context.

    Raises NoDatabase, DatabaseUnavailable, NotMigrated.
    """
    engine = engines(db).get(None)
    if engine is None:
        raise NoDatabase
    try:
        yield engine
    except SQLAlchemyError as error:
        cause = getattr(error, "orig", None) or error
        if isinstance(error, OperationalError | ProgrammingError) and PREFIX in str(cause):
            raise NotMigrated(f"{cause}; run `flask jobs migrate`") from error
        raise DatabaseUnavailable(f"The database cannot be reached: {cause}") from error
