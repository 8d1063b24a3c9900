"""What operators did: who, what, to what, when, from where, and what came of it."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from sqlalchemy import insert, select

from jobserver.errors import JobServerError, NoDatabase
from jobserver.ledger.database import database
from jobserver.ledger.models import actions

DONE, FAILED = "done", "failed"
MOST_CHARACTERS = 500

logger = logging.getLogger(__name__)


@dataclass(kw_only=True)
class Action:
    """One action of an operator; what is done may still refine `target` and `detail`.

    `principal` is a principal's name, or `shell:<user>` for a command. `target` names what it was
    done to (`mail`, `mail/jobs/17`), `detail` what came of it (`3 jobs`) or why it failed.
    """

    principal: str
    role: str | None
    action: str
    target: str
    request_id: str = ""
    remote_address: str = ""
    detail: str = ""
    outcome: str = FAILED
    at: datetime | None = None
    position: int | None = None


@contextmanager
def recorded(db: object, action: Action) -> Iterator[Action]:
    """Record the action when it is done, or has failed; its errors go on.

    A database that is away stops no operator: the log then holds the record.
    """
    try:
        yield action
        action.outcome = DONE
    except Exception as error:
        action.detail = action.detail or f"{type(error).__name__}: {error}"
        raise
    finally:
        _record(db, action)


def find(
    db: object,
    *,
    before: int | None = None,
    limit: int = 50,
    principal: str | None = None,
    action: str | None = None,
    target: str | None = None,
    outcome: str | None = None,
) -> Sequence[Action]:
    """Return actions, the newest first, those before the position `before`.

    Raises NoDatabase, DatabaseUnavailable.
    """
    query = select(actions).order_by(actions.c.position.desc()).limit(limit)
    if before is not None:
        query = query.where(actions.c.position < before)
    wanted = {"principal": principal, "action": action, "target": target, "outcome": outcome}
    for column, value in wanted.items():
        if value is not None:
            query = query.where(actions.c[column] == _clean(value))
    with database(db) as engine, engine.connect() as connection:
        return [Action(**row) for row in connection.execute(query).mappings()]


def _record(db: object, action: Action) -> None:
    action.at = datetime.now(UTC)
    fields = {
        name: _clean(value) if isinstance(value, str) else value
        for name, value in asdict(action).items()
        if name != "position"
    }
    logger.info("action %s", fields)
    try:
        with database(db) as engine, engine.begin() as connection:
            connection.execute(insert(actions).values(fields))
    except NoDatabase:
        return  # the log is all there is
    except JobServerError as error:
        logger.error("action %s is in this log only: %s", fields, error)


def _clean(text: str) -> str:
    # Paths and messages may hold anything; PostgreSQL refuses NUL, and a log line must stay one.
    shown = "".join(character if character.isprintable() else "\ufffd" for character in text)
    return shown[:MOST_CHARACTERS]
