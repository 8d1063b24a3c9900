"""The outbox: enqueue requests that live and die with a SQL transaction, pushed when it committed.

A request is a row of the caller's own transaction. Right after the commit the process pushes the
rows it wrote; rows that outlive that (the process died, Redis was away) are pushed by the relay of
any scheduler process. A row may be pushed twice, by both: its id is the call id, so the second push
gets the first one's answer.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from sqlalchemy import Connection, Engine, delete, event, func, insert, inspect, not_, select
from sqlalchemy.exc import OperationalError, ProgrammingError, SQLAlchemyError
from sqlalchemy.orm import Session, SessionTransaction, scoped_session
from sqlalchemy.pool import SingletonThreadPool

from jobserver.broker import Answer, Broker, EnqueueRequest
from jobserver.errors import JobServerError, RedisUnavailable
from jobserver.ledger.models import outbox
from jobserver.policy import DAY

PATIENCE = 1.5  # seconds that a commit waits at most for the push that follows it
RETRY_AFTER = 1.0  # seconds after a failed push in which commits leave their rows to the relay
REST = 30.0  # seconds after which a row that Redis would not take is tried again
SETTLE = 1.0  # seconds in which a row is left to the process that wrote it
CALL_TTL = 30 * DAY  # a call is remembered until its row is gone, or this if its process died

_BATCH_ROWS = 500
_BATCH_BYTES = 4 * 1024 * 1024

logger = logging.getLogger(__name__)


class _Row(NamedTuple):
    """What the relay reads of a row."""

    position: int
    id: str
    request: str


@dataclass
class _Stored:
    """What one transaction of a session has put into the outbox, and where."""

    bind: Engine | Connection
    requests: list[EnqueueRequest] = field(default_factory=list)
    committed: bool = False


class Outbox:
    """Stores requests in the caller's transaction, and pushes what was committed to the broker."""

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self._failed_at: float | None = None  # monotonic time; None: the last push succeeded
        self._refused: dict[str, float] = {}  # rows that Redis would not take: id, monotonic time

    def store(
        self, session: Session | scoped_session[Any], requests: Sequence[EnqueueRequest]
    ) -> None:
        """Insert the requests through the session; its commit pushes, its rollback forgets them.

        Raises JobServerError when the outbox table is missing.
        """
        if not requests:
            return
        session = session() if isinstance(session, scoped_session) else session
        now = datetime.now(UTC)
        rows = [
            {"id": request.call, "created_at": now, "request": request.to_json()}
            for request in requests
        ]
        statement = insert(outbox)
        try:
            session.execute(statement, rows)
        except (OperationalError, ProgrammingError) as error:
            if outbox.name not in str(error.orig):
                raise
            raise JobServerError(
                f"{outbox.name} cannot be written: {error.orig}; run `flask jobs migrate`"
            ) from error
        if self not in session.info:
            session.info[self] = _Stored(session.get_bind(clause=statement))
            self._listen(session)
        session.info[self].requests.extend(requests)

    def relay(self, engine: Engine, *, settle: float = SETTLE) -> int:
        """Push the rows that their own process has not pushed, oldest first; return how many.

        Rows of the last `settle` seconds are left alone: that process is likely at it. Any number
        of relays may run at once. A database without an outbox has nothing to push. Raises
        RedisUnavailable, and SQLAlchemy's errors.
        """
        if not inspect(engine).has_table(outbox.name):
            return 0
        pushed, position = 0, 0
        while rows := self._left(engine, after=position, settle=settle):
            position = rows[-1].position
            if requests := list(self._readable(rows)):
                pushed += self._push_each(engine, requests)
        return pushed

    def pending(self, engine: Engine) -> tuple[int, datetime | None]:
        """Return how many rows wait to be pushed, and since when the oldest does."""
        rows = select(func.count(), func.min(outbox.c.created_at))
        with engine.connect() as connection:
            count, oldest = connection.execute(rows).one()
        return count, oldest

    def runs(self, engine: Engine) -> set[str]:
        """Return the runs that wait to be pushed, if only once more."""
        if not inspect(engine).has_table(outbox.name):
            return set()
        with engine.connect() as connection:
            texts = connection.execution_options(yield_per=_BATCH_ROWS)
            return {_run_of(text) for text in texts.scalars(select(outbox.c.request))}

    def _listen(self, session: Session) -> None:
        if not event.contains(session, "after_transaction_end", self._ended):
            event.listen(session, "after_commit", self._committed)
            event.listen(session, "after_transaction_end", self._ended)

    def _committed(self, session: Session) -> None:
        if self in session.info and not session.in_nested_transaction():
            session.info[self].committed = True

    def _ended(self, session: Session, transaction: SessionTransaction) -> None:
        # Not in after_commit: only here has the session given its connection back to the pool.
        if transaction.parent is not None:
            return
        stored: _Stored | None = session.info.pop(self, None)
        if stored is None or not stored.committed:
            return
        bind = stored.bind
        if isinstance(bind, Connection):
            if bind.in_transaction():
                return  # the session only joined a transaction, which may yet be rolled back
            bind = bind.engine
        self._push_in_time(bind, stored.requests)

    def _push_in_time(self, engine: Engine, requests: Sequence[EnqueueRequest]) -> None:
        failed_at = self._failed_at
        if failed_at is not None and time.monotonic() - failed_at < RETRY_AFTER:
            return
        if isinstance(engine.pool, SingletonThreadPool):  # its database is the thread's own memory
            self._push_committed(engine, requests, threading.Event())
            return
        # A thread, because the request must go on in time whatever blocks: pool, lock, network.
        is_sent = threading.Event()
        thread = threading.Thread(
            target=self._push_committed,
            args=(engine, requests, is_sent),
            name="outbox",
            daemon=True,
        )
        try:
            thread.start()
        except RuntimeError as error:  # no more threads
            self._report(error)
            return
        is_sent.wait(PATIENCE)

    def _push_committed(
        self, engine: Engine, requests: Sequence[EnqueueRequest], is_sent: threading.Event
    ) -> None:
        sent = []
        try:
            for batch in _batches(requests):
                if there := _there(engine, batch):
                    self._send(there)
                    sent.append(there)
            self._failed_at = None
        except Exception as error:  # whatever it is: the commit stands, and the relay will push
            self._report(error)
        finally:
            is_sent.set()
        # The caller goes on: the rows are deleted when the database has a turn for that.
        try:
            for batch in sent:
                self._delete(engine, batch)
        except Exception as error:  # the relay will push them in vain, and delete them
            logger.info("outbox rows that were pushed stay for the relay: %s", error)

    def _push_each(self, engine: Engine, requests: Sequence[EnqueueRequest]) -> int:
        try:
            self._push(engine, requests)
        except (RedisUnavailable, SQLAlchemyError):
            raise
        except Exception as error:  # one bad request must not hold up all others
            if len(requests) == 1:
                self._refuse(requests[0].call, error)
                return 0
            return sum(self._push_each(engine, [request]) for request in requests)
        return len(requests)

    def _push(self, engine: Engine, requests: Sequence[EnqueueRequest]) -> None:
        # Three steps, not one transaction: SQLite's one writer must not wait for Redis.
        self._send(requests)
        self._delete(engine, requests)

    def _send(self, requests: Sequence[EnqueueRequest]) -> None:
        answers = self.broker.enqueue(requests, call_ttl=CALL_TTL)
        for request, answer in zip(requests, answers, strict=True):
            _report_conflict(request, answer)

    def _delete(self, engine: Engine, requests: Sequence[EnqueueRequest]) -> None:
        ids = [request.call for request in requests]
        # Rows that the other pusher is deleting are skipped: ours must not wait for its delete.
        gone = select(outbox.c.position).where(outbox.c.id.in_(ids))
        with engine.begin() as connection:
            connection.execute(
                delete(outbox).where(outbox.c.position.in_(gone.with_for_update(skip_locked=True)))
            )
        self.broker.forget_calls(ids)

    def _left(self, engine: Engine, *, after: int, settle: float) -> list[_Row]:
        now = datetime.now(UTC)
        # Rows from the future (another host's clock) are taken too, or they would wait for it.
        fresh = outbox.c.created_at.between(now - timedelta(seconds=settle), now)
        query = (
            select(outbox.c.position, outbox.c.id, outbox.c.request)
            .where(outbox.c.position > after, not_(fresh))
            .order_by(outbox.c.position)
            .limit(_BATCH_ROWS)
        )
        rows: list[_Row] = []
        size = 0
        with engine.connect() as connection:
            streaming = connection.execution_options(stream_results=True, max_row_buffer=20)
            found = streaming.execute(query)
            for row in found:
                rows.append(_Row(*row))
                size += len(row.request)
                if size > _BATCH_BYTES:
                    break
            found.close()
        return rows

    def _readable(self, rows: Sequence[_Row]) -> Iterator[EnqueueRequest]:
        for row in rows:
            if time.monotonic() - self._refused.get(row.id, -REST) < REST:
                continue
            try:
                yield EnqueueRequest.from_json(row.request)
            except (ValueError, TypeError, KeyError) as error:
                self._refuse(row.id, error)

    def _refuse(self, call: str, error: Exception) -> None:
        if call not in self._refused:
            logger.error("outbox row %s cannot be pushed and stays: %s", call, error)
        self._refused[call] = time.monotonic()

    def _report(self, error: Exception) -> None:
        if self._failed_at is None:
            logger.warning("no push after commit, the outbox relay will do it: %s", error)
        self._failed_at = time.monotonic()


def engines(db: object) -> dict[str | None, Engine]:
    """Return the engines of what a host calls its db by bind key; its default engine's key is None.

    Takes an Engine, Flask-SQLAlchemy (which needs an app context here), or None: no engine.
    """
    if db is None:
        return {}
    if isinstance(db, Engine):
        return {None: db}
    binds = getattr(db, "engines", None)
    if isinstance(binds, Mapping):
        return dict(binds)
    raise JobServerError(f"db={db!r} is not accepted: use an Engine or Flask-SQLAlchemy")


def _there(engine: Engine, requests: Sequence[EnqueueRequest]) -> list[EnqueueRequest]:
    # Only the database knows which savepoints were rolled back; asked on another connection, it
    # tells what was committed.
    query = select(outbox.c.id).where(outbox.c.id.in_([request.call for request in requests]))
    with engine.connect() as connection:
        ids = set(connection.scalars(query))
    return [request for request in requests if request.call in ids]


def _run_of(text: str) -> str:
    try:
        return EnqueueRequest.from_json(text).run
    except (ValueError, TypeError):  # the relay says so, again and again
        return ""


def _batches(requests: Sequence[EnqueueRequest]) -> Iterator[Sequence[EnqueueRequest]]:
    batch: list[EnqueueRequest] = []
    size = 0
    for request in requests:
        batch.append(request)
        size += len(request.data)
        if len(batch) == _BATCH_ROWS or size > _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _report_conflict(request: EnqueueRequest, answer: Answer) -> None:
    if answer.word == "conflict":
        logger.error(
            "job %s of type %s was committed but not made: a job of type %s holds its key",
            request.id,
            request.type,
            answer.run,
        )
