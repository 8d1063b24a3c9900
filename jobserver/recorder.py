"""The recorder: writes what the event stream tells into the ledger, in order, each event once.

How far it has come lies in the database, and moves in the transaction that writes the rows. It is
moved by comparison with where it was when the events were read: whoever comes second writes
nothing. So any number of recorders may run, and each may be killed anywhere.
"""

from __future__ import annotations

import hashlib
import logging
import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import fields
from datetime import UTC, datetime
from typing import Literal

import orjson
from sqlalchemy import (
    Connection,
    Engine,
    RowMapping,
    TextualSelect,
    column,
    insert,
    select,
    text,
    update,
)
from sqlalchemy.exc import DataError, IntegrityError

from jobserver.broker import Job
from jobserver.broker.broker import Recorded
from jobserver.broker.job import payload_of, queue_of, traceback_text
from jobserver.broker.stream import START, Entry, Stream, is_before
from jobserver.ledger import lines, series
from jobserver.ledger.bulk import upsert
from jobserver.ledger.database import database
from jobserver.ledger.lines import Written
from jobserver.ledger.models import DEAD, UtcDateTime, attempts, indexed, position, runs
from jobserver.ledger.record import Record, Spent
from jobserver.ledger.series import End
from jobserver.server import Server

WAIT = 1.0  # seconds that it waits for an event
BATCH = 2000  # events of one transaction
FIRST = 250  # of the first one, before it is known how large they are
BATCH_BYTES = 16 * 1024 * 1024  # of lines in one, about: a batch is in memory several times
MOST_HOSTS = 10_000  # workers whose host is remembered
REST = 0.2  # seconds at most that it leaves SQLite's one writer to others after a transaction

_ROW = 1  # the id of the one row of `position`
# What a database, its driver or JSON says of values that they cannot take.
_REFUSED = (DataError, IntegrityError, ValueError, TypeError, OverflowError)
_ENDS = frozenset({"completed", "failed", "canceled"})
_COUNTED: dict[str, Literal["completed", "failed"]] = {"completed": "completed", "failed": "failed"}
_FIXED = ("job", "type", "queue", "priority", "key", "owner", "organization", "trace")
_KEPT = frozenset({*_FIXED, "enqueued_at", "payload"})  # what never changes once a run is made
_READ = [runs.c[one.name] for one in fields(Record) if one.name != "payload"]
_TIMES = [one.name for one in _READ if isinstance(one.type, UtcDateTime)]

logger = logging.getLogger(__name__)


class Recorder:
    """Records the events of a server in one database; after an error it goes on where it was."""

    def __init__(self, server: Server, engine: Engine) -> None:
        self._server = server
        self._engine = engine
        self._stream = Stream(server.broker, wait=WAIT)
        self._hosts: dict[str, str | None] = {}
        self._is_ahead = False  # of Redis, which lost its last events

    def work(self) -> int:
        """Record what there is; when there is nothing, wait a second for something.

        Returns how many events that were. Where another recorder is at it, leaves it to that one.
        Raises RedisUnavailable, DatabaseUnavailable, NotMigrated.
        """
        total = 0
        with database(self._engine):
            after, events = self._position()
            # Again, as whoever wrote it may have been killed before it said so.
            self._compare(after, self._server.broker.recorded(after, events=events))
            most = FIRST
            while entries := self._stream.read(after, most=most, patient=not total):
                last, count = entries[-1].id, events + len(entries)
                fold = self._fold(entries)
                began = time.monotonic()
                try:
                    is_mine = self._write(fold, after=after, last=last, events=count)
                except _REFUSED as error:
                    if len(entries) > 1:  # all but the one that the database refuses
                        most = len(entries) // 2
                        continue
                    # Of the event no more than its names: it may hold what is marked as secret.
                    cause = getattr(error, "orig", None) or error
                    logger.error(
                        "event %s cannot be recorded: %s: %s", last, _named(entries[0]), cause
                    )
                    nothing = Fold(self._server, {})
                    is_mine = self._write(nothing, after=after, last=last, events=count)
                if not is_mine:
                    time.sleep(WAIT)  # another one is at it; should that one die, there is this
                    break
                took = time.monotonic() - began
                self._server.broker.recorded(last, events=count)
                total += len(entries)
                if len(entries) < most:
                    break
                after, events, most = last, count, _fitting(entries)
                if self._engine.dialect.name == "sqlite":
                    time.sleep(min(took, REST))
        return total

    def close(self) -> None:
        """Close its connection to Redis."""
        self._stream.close()

    def _position(self) -> tuple[str, int]:
        query = select(position.c.position, position.c.events).where(position.c.id == _ROW)
        with self._engine.connect() as connection:
            row = connection.execute(query).first()
        if row is not None:
            return row.position, row.events
        first = {"id": _ROW, "position": START, "events": 0, "recorded_at": datetime.now(UTC)}
        try:
            with self._engine.begin() as connection:
                connection.execute(insert(position).values(first))
        except IntegrityError:  # another recorder was first
            return self._position()
        return START, 0

    def _compare(self, after: str, known: Recorded) -> None:
        """Log once when the database or Redis has gone back to an older state.

        What Redis trimmed since that state of the database is lost to it.
        """
        if known.trimmed and is_before(after, known.trimmed):
            # Unless another recorder has gone on since the position was read.
            if known.position != after == self._position()[0]:
                logger.error(
                    "the ledger was at event %s, and Redis has none before %s any more: what "
                    "happened between is not recorded; was an older database restored?",
                    after,
                    known.trimmed,
                )
        elif known.last and is_before(known.last, after) and not self._is_ahead:
            logger.error(
                "the ledger is at event %s, and the last of Redis is %s: was an older state of "
                "Redis restored? The ledger keeps what it has",
                after,
                known.last,
            )
        self._is_ahead = bool(known.last) and is_before(known.last, after)

    def _fold(self, entries: Sequence[Entry]) -> Fold:
        """Return what the events make of the runs that they tell of."""
        self._name_runs(entries)
        told = [entry for entry in entries if entry.run and not _is_silent(entry)]
        made: set[str] = set()
        known: dict[str, Entry] = {}  # runs that began before, by the first event of each
        for entry in told:
            if entry.makes_run:
                made.add(entry.run)
            elif entry.run not in made and entry.name != "log":
                known.setdefault(entry.run, entry)
        fold = Fold(self._server, self._recall(known))
        for entry in told:
            try:
                fold.take(entry)
            except (ValueError, KeyError, zlib.error) as error:
                # Of another release, or nobody's: one event must not hold up all that follow.
                logger.error("event %s cannot be recorded: %s: %r", entry.id, _named(entry), error)
        for record in fold.records.values():
            if record.worker and (host := self._host(record.worker)):
                record.host = host
        return fold

    def _name_runs(self, entries: Sequence[Entry]) -> None:
        """Name the runs of jobs that stock RQ made: each from a first claim to the end."""
        strange = [entry for entry in entries if not entry.run and entry.fields["job"]]
        if not strange:
            return
        jobs = _json(jobs=list({entry.fields["job"] for entry in strange}))
        with self._engine.connect() as connection:
            its = runs.c.job.in_(_texts(connection, "jobs"))
            query = select(runs.c.job, runs.c.run, runs.c.ended_at).where(its).order_by(runs.c.run)
            last = {
                row.job: (row.run, row.ended_at is not None)
                for row in connection.execute(query, jobs)
            }
        for entry in strange:
            job = entry.fields["job"]
            run, has_ended = last.get(job, ("", True))
            if not run or (has_ended and entry.name == "claimed"):
                run = _stock_run(entry)
            entry.fields["run"] = run
            is_end = entry.name in _ENDS and not entry.fields.get("retry_at")
            last[job] = (run, is_end or (has_ended and entry.name not in ("claimed", "retried")))

    def _recall(self, known: Mapping[str, Entry]) -> dict[str, Record]:
        """Return what is recorded of runs; what is not comes from Redis, or from next to nothing.

        That are runs older than the ledger, or than what its retention left.
        """
        if not known:
            return {}
        with self._engine.connect() as connection:
            query = select(*_READ).where(runs.c.run.in_(_texts(connection, "runs")))
            found = connection.execute(query, _json(runs=list(known))).mappings()
            records = {row["run"]: _record(row) for row in found}
        strangers = [entry for run, entry in known.items() if run not in records]
        jobs = self._server.broker.fetch_many([entry.fields["job"] for entry in strangers])
        for entry, job in zip(strangers, jobs, strict=True):
            records[entry.run] = _unrecorded(entry, job)
        return records

    def _host(self, worker: str) -> str | None:
        if worker not in self._hosts:
            if len(self._hosts) > MOST_HOSTS:
                self._hosts.clear()
            self._hosts[worker] = self._server.broker.host_of(worker)
        return self._hosts[worker]

    def _write(self, fold: Fold, *, after: str, last: str, events: int) -> bool:
        """Write rows and position; return False when another recorder has moved the position."""
        now = datetime.now(UTC)
        moved = (
            update(position)
            .where(position.c.id == _ROW, position.c.position == after)
            .values(position=last, events=events, recorded_at=now)
        )
        with self._engine.begin() as connection:
            # First of all, before anything is read: on SQLite this takes the lock of the writer.
            if connection.execute(moved).rowcount != 1:
                return False
            upsert(connection, runs, list(fold.records.values()), keep=_KEPT)
            upsert(connection, attempts, list(fold.spent.values()))
            if fold.purged:
                gone = runs.c.run.in_(_texts(connection, "runs"))
                removed = update(runs).where(DEAD, gone).values(settled_at=now)
                connection.execute(removed, _json(runs=fold.purged))
            if fold.revived:
                again = runs.c.run.in_(fold.revived)
                connection.execute(update(runs).where(again).values(settled_at=None))
            if fold.last:
                anew = runs.c.job.in_(_texts(connection, "jobs"))
                others = runs.c.run.not_in(_texts(connection, "runs"))
                settled = update(runs).where(DEAD, anew, others).values(settled_at=now)
                connection.execute(
                    settled, _json(jobs=list(fold.last), runs=list(fold.last.values()))
                )
            series.add(connection, fold.ended)
            lines.add(connection, fold.written)
        return True


class Fold:
    """What a batch of events makes of the runs that it tells of."""

    def __init__(self, server: Server, records: dict[str, Record]) -> None:
        self._server = server
        self.records = records
        self.spent: dict[tuple[str, int], Spent] = {}
        self.ended: list[End] = []
        self.revived: list[str] = []  # runs that failed, and go on
        self.purged: list[str] = []  # runs whose job somebody removed
        self.last: dict[str, str] = {}  # by job its last run that began
        self.written: list[Written] = []  # lines that the runs logged

    def take(self, entry: Entry) -> None:
        """Take one event in."""
        if entry.name == "log":
            self.written.append(_written(entry))
            return
        if entry.makes_run:
            self.records[entry.run] = self._made(entry)
            self.last[entry.fields["job"]] = entry.run
            return
        packed = entry.fields.get("traceback")
        traceback = traceback_text({b"exc_string": packed.encode()}) if packed else None
        record = self.records[entry.run]
        if spent := record.apply(entry.name, entry.at, entry.fields, traceback=traceback or ""):
            self.spent[spent.run, spent.number] = spent
        if entry.name == "retried":
            self.revived.append(entry.run)
        if entry.name == "purged":
            self.purged.append(entry.run)
        if entry.name == record.state and (state := _COUNTED.get(entry.name)):
            self.ended.append(End(record.queue, state, entry.at, record.wait_ms, record.run_ms))

    def _made(self, entry: Entry) -> Record:
        told = entry.fields
        queue, priority = queue_of(told["queue"])
        payload, organization = self._payload(told["type"], told["payload"])
        return Record(
            run=entry.run,
            job=told["job"],
            type=told["type"],
            queue=queue,
            priority=priority,
            key=_name(told["key"]),
            owner=_name(told["owner"]),
            organization=_name(organization),
            trace=_name(told.get("trace")),
            state="delayed" if told["due"] else "waiting",
            attempts=int(told["attempts"]),
            enqueued_at=entry.at,
            due_at=int(told["due"]) if told["due"] else None,
            payload=payload,
        )

    def _payload(self, type_name: str, data: str) -> tuple[str | None, str | None]:
        """Return a payload as it may be kept, and the organization that it names."""
        try:
            _, values = payload_of(data)
        except ValueError:  # large payloads are not in the event
            return None, None
        organization = None
        if isinstance(values, dict):
            named = values.get("organizationId", values.get("organization_id"))
            organization = None if named is None else str(named)
        return orjson.dumps(self._server.redacted(type_name, values)).decode(), organization


def _stock_run(entry: Entry) -> str:
    """Return an id for a run of a job that has none, of the same kind and order as ours."""
    return (
        f"{entry.at:011x}{hashlib.blake2b(entry.fields['job'].encode(), digest_size=6).hexdigest()}"
    )


def _is_silent(entry: Entry) -> bool:
    """Return whether an event changes no run; what retention takes out of Redis stays here."""
    name = entry.name
    return name == "progress" or (name == "purged" and entry.fields.get("reason") == "retention")


def _fitting(entries: Sequence[Entry]) -> int:
    """Return how many events like these make a batch."""
    size = sum(len(entry.fields.get("lines", "")) for entry in entries)
    return max(1, min(BATCH, BATCH_BYTES * len(entries) // max(1, size)))


def _named(entry: Entry) -> str:
    return " ".join(f"{name}={entry.fields.get(name)}" for name in ("event", "job", "run"))


def _written(entry: Entry) -> Written:
    told = entry.fields
    first, oldest = int(told["first"]), int(told["oldest"])
    return Written(run=entry.run, first=first, oldest=oldest, lines=told["lines"])


def _texts(connection: Connection, name: str) -> TextualSelect:
    """Return a subquery of the texts in a parameter, which is a JSON array."""
    is_sqlite = connection.dialect.name == "sqlite"
    each = f"json_each(:{name})"
    if not is_sqlite:
        each = f"json_array_elements_text(CAST(:{name} AS json))"
    return text(f"SELECT value FROM {each}").columns(column("value"))  # noqa: S608  # our names


def _json(**lists: list[str]) -> dict[str, str]:
    return {name: orjson.dumps(values).decode() for name, values in lists.items()}


def _record(row: RowMapping) -> Record:
    values = dict(row)
    for name in _TIMES:
        if values[name] is not None:
            values[name] = _ms(values[name])
    return Record(**values)


def _unrecorded(entry: Entry, job: Job | None) -> Record:
    queue, priority = queue_of(entry.fields["queue"])
    record = Record(
        run=entry.run,
        job=entry.fields["job"],
        type="",
        queue=queue,
        priority=priority,
        enqueued_at=entry.at,
    )
    if job is not None and job.run_id in ("", entry.run):  # stock RQ's jobs have none
        record.type, record.key, record.owner = job.type, _name(job.key), _name(job.owner)
        record.attempts = job.attempts
        record.enqueued_at = _ms(job.created_at) if job.created_at else entry.at
    return record


def _name(text: str | None) -> str | None:
    return indexed(text) if text else None


def _ms(moment: datetime) -> int:
    return round(moment.timestamp() * 1000)
