"""Runs that the ledger awaits and Redis has no more: closed as failed, so that they can be retried.

Redis lost its data, or somebody deleted the job. A run is closed only when all that Redis had told
until it was found missing is recorded: then no event is under way that tells of its end.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import groupby
from operator import attrgetter
from typing import NamedTuple

from sqlalchemy import Engine, case, exists, func, select, update

from jobserver.broker.disorder import missing
from jobserver.broker.stream import is_before
from jobserver.ledger.database import database
from jobserver.ledger.fingerprint import fingerprint
from jobserver.ledger.models import NOT_COMPLETED, position, runs
from jobserver.ledger.record import LOST
from jobserver.ledger.runs import Run, Sought, find
from jobserver.policy import MINUTE
from jobserver.server import Server

AGE = 5 * MINUTE  # since a run was enqueued or began, before it is looked for
BATCH = 500
MOST = 20  # batches of one look; the next one goes on behind them
PATIENCE = 5.0  # seconds that the recorder is given to catch up with a look
PAUSE = 0.1

WORDS = "Redis no longer has this job"  # with which the message begins

_OPEN = ("waiting", "delayed", "active")

logger = logging.getLogger(__name__)


class _Open(NamedTuple):
    """What is read of a run that has not ended."""

    run: str
    job: str
    type: str
    is_kept: bool  # its payload


def told(db: object, *, limit: int) -> list[Run]:
    """Return dead letters of lost runs, of those that failed last; raises as `find` does."""
    return find(db, Sought(is_dead=True, error=WORDS), limit=limit)[0]


class Losses:
    """Looks for lost runs through all that have not ended, some at a time."""

    def __init__(self, server: Server, engines: Mapping[str | None, Engine]) -> None:
        self._server = server
        self._engines = engines
        self._engine = engines[None]
        self._after = dict.fromkeys(_OPEN, "")  # up to which run it has looked

    def close(self, *, now: datetime | None = None, patience: float = PATIENCE) -> int:
        """Close lost runs; return how many. Any number of processes may do it at once.

        Raises RedisUnavailable, DatabaseUnavailable, NotMigrated.
        """
        now = now or datetime.now(UTC)
        with database(self._engine):
            # Before Redis is asked: what is pushed once more after it lost everything is not lost.
            pushed = set().union(*map(self._server.outbox.runs, self._engines.values()))
            return sum(
                self._close_some(state, but=pushed, now=now, patience=patience) for state in _OPEN
            )

    def _close_some(self, state: str, *, but: set[str], now: datetime, patience: float) -> int:
        closed = 0
        for _ in range(MOST):
            found = self._open(state, before=now - timedelta(seconds=AGE))
            last, gone = missing(self._server.broker, [(one.job, one.run) for one in found])
            if lost := [one for one in found if one.run in gone - but]:
                if not self._is_recorded(last, patience=patience):
                    break
                closed += self._close(state, lost, now=now)
            if len(found) < BATCH:
                self._after[state] = ""
                break
            self._after[state] = found[-1].run
        return closed

    def _open(self, state: str, *, before: datetime) -> list[_Open]:
        query = (
            select(runs.c.run, runs.c.job, runs.c.type, runs.c.payload.is_not(None))
            # A walk along the index: a run's id begins with when it was asked for.
            .where(NOT_COMPLETED, runs.c.state == state, runs.c.run > self._after[state])
            .where(runs.c.run < f"{int(before.timestamp() * 1000):011x}")
            .where(func.coalesce(runs.c.started_at, runs.c.enqueued_at) < before)
            .order_by(runs.c.run)
            .limit(BATCH)
        )
        with self._engine.connect() as connection:
            return [_Open(*row) for row in connection.execute(query)]

    def _is_recorded(self, last: str, *, patience: float) -> bool:
        """Wait until the ledger is at an event; return whether it is."""
        deadline = time.monotonic() + patience
        while True:
            with self._engine.connect() as connection:
                recorded = connection.scalar(select(position.c.position))
            if recorded is not None and not is_before(recorded, last):
                return True
            if time.monotonic() >= deadline:
                return False
            time.sleep(PAUSE)

    def _close(self, state: str, lost: Sequence[_Open], *, now: datetime) -> int:
        closed = 0
        cause = (
            f"{WORDS}, which was {state}, and no event told of an end: its data was lost, or the "
            "job was deleted"
        )
        later = runs.alias()
        has_run_since = exists().where(
            later.c.job == runs.c.job, later.c.enqueued_at > runs.c.enqueued_at
        )
        alike = attrgetter("type", "is_kept")
        with self._engine.begin() as connection:
            # The recorder's row, so that this is before or after all that one writes.
            connection.execute(update(position).values(position=position.c.position))
            for (kind, is_kept), group in groupby(sorted(lost, key=alike), alike):
                remedy = "on record: retry it" if is_kept else "not on record: retry it with one"
                closing = (
                    update(runs)
                    .where(runs.c.run.in_([one.run for one in group]), runs.c.state == state)
                    .values(
                        state="failed",
                        ended_at=now,
                        due_at=None,
                        error_type=LOST.error_type,
                        error_message=f"{cause}. Its payload is {remedy}",
                        reason=LOST.reason,
                        fingerprint=fingerprint(kind, LOST.error_type, cause, ""),
                        settled_at=case((has_run_since, now)),
                    )
                )
                closed += connection.execute(closing).rowcount
        if closed:
            logger.error("Redis lost %d runs that were %s: they are dead letters", closed, state)
        return closed
