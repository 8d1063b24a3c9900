"""The record of all runs: one by its id, the latest of a job, their attempts, and searches."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from typing import Any, Literal

from sqlalchemy import ColumnElement, Connection, RowMapping, TextClause, select
from sqlalchemy.sql.base import ReadOnlyColumnCollection

from jobserver import payload
from jobserver.broker import Job
from jobserver.errors import JobPurged
from jobserver.ledger.database import database
from jobserver.ledger.models import DEAD, NOT_COMPLETED, indexed
from jobserver.ledger.models import attempts as attempt_rows
from jobserver.ledger.models import runs as run_rows
from jobserver.policy import Priority

State = Literal["waiting", "delayed", "active", "completed", "failed", "canceled", "purged"]
Outcome = Literal["completed", "failed", "retried", "lost", "canceled"]

STATES: tuple[State, ...] = (
    *("waiting", "delayed", "active", "completed", "failed", "canceled", "purged"),
)
OUTCOMES: tuple[Outcome, ...] = ("completed", "failed", "retried", "lost", "canceled")

_RAW_STATUSES: Mapping[State, str] = {
    "waiting": "queued",
    "delayed": "scheduled",
    "active": "started",
    "completed": "finished",
    "failed": "failed",
    "canceled": "canceled",
}
LOOKED_AT = 2000  # runs per search: what is asked for may be rare
# A run gets its id where it is asked for, by that host's clock; it is enqueued when Redis has it.
_CLOCKS_DIFFER = timedelta(minutes=1)
_LONGEST_OUTSIDE = timedelta(hours=1)  # in an outbox, or noted to follow a run of its job

# What few runs have in common, the rarest first; each has an index.
_RARE = ("job", "key", "trace", "fingerprint", "owner", "organization")


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """One run of a job as it is on record; times are aware UTC.

    `result` is None, too, when it was too large to keep, and so is `payload`; see `has_result`.
    """

    run: str
    job: str
    type: str
    queue: str
    priority: Priority
    key: str | None
    owner: str | None
    organization: str | None
    trace: str | None
    state: State
    attempt: int
    attempts: int
    enqueued_at: datetime
    due_at: datetime | None
    started_at: datetime | None
    ended_at: datetime | None
    wait_ms: int | None
    run_ms: int | None
    worker: str | None
    host: str | None
    has_result: bool
    result: Any
    error_type: str | None
    error_message: str | None
    reason: str | None
    fingerprint: str | None
    has_payload: bool
    payload: Any
    purged_at: datetime | None
    settled_at: datetime | None

    @property
    def version(self) -> str:
        """Another text whenever something of the run has changed."""
        parts = (self.run, self.state, self.attempt, self.attempts, self.ended_at, self.due_at)
        return hashlib.blake2b(repr(parts).encode(), digest_size=12).hexdigest()

    @property
    def as_job(self) -> Job:
        """The job as this run left it; raises JobPurged if somebody removed it."""
        if self.purged_at is not None or self.state == "purged":
            raise JobPurged(f"Job {self.job!r} was removed at {self.purged_at:%Y-%m-%dT%H:%M:%SZ}")
        return Job(
            id=self.job,
            run_id=self.run,
            type=self.type,
            queue=self.queue,
            priority=self.priority,
            status=self.state,
            raw_status=_RAW_STATUSES[self.state],
            progress=100 if self.state == "completed" else 0,
            attempt=self.attempt,
            attempts=self.attempts,
            key=self.key,
            owner=self.owner,
            trace=self.trace or self.run,
            payload=self.payload,
            created_at=self.enqueued_at,
            enqueued_at=self.enqueued_at,
            started_at=self.started_at,
            ended_at=self.ended_at,
            due_at=self.due_at if self.state == "delayed" else None,
            result=self.result,
            error_type=self.error_type,
            error_message=self.error_message,
            worker=self.worker,
            version=self.version,
            source="ledger",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Attempt:
    """One spent attempt of a run; `peak_rss` is in bytes."""

    number: int
    started_at: datetime | None
    ended_at: datetime | None
    worker: str | None
    outcome: Outcome
    reason: str | None = None
    error_type: str | None = None
    error_message: str | None = None
    traceback: str | None = None
    exit_reason: str | None = None
    peak_rss: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Sought:
    """Which runs are asked for; None wants any. `error` is a part of a failed run's message.

    `is_dead` wants failed runs that nobody has discarded and whose jobs have not run since.
    """

    job: str | None = None
    type: str | None = None
    queue: str | None = None
    key: str | None = None
    owner: str | None = None
    organization: str | None = None
    trace: str | None = None
    state: State | None = None
    fingerprint: str | None = None
    error: str | None = None
    enqueued_from: datetime | None = None
    enqueued_before: datetime | None = None
    is_dead: bool = False


def find(
    db: object, sought: Sought, *, before: str | None = None, limit: int = 50
) -> tuple[list[Run], str | None]:
    """Return runs, the newest first, and the run behind which to go on; None at the end.

    A page may hold fewer than `limit`, even none: after 2,000 runs that share the rarest thing that
    is asked for, it stops looking for those that have the rest. Raises NoDatabase,
    DatabaseUnavailable, NotMigrated.
    """
    near, names = _near(sought)
    if before is not None:
        near.append(run_rows.c.run < before)
    newest = run_rows.c.run.desc()
    near_ids = select(run_rows.c.run).where(*near).order_by(newest)
    if rest := conditions(sought, run_rows.c, but=names):
        # The ids come from one index, in its order; only then are rows read, whatever the planner
        # thinks of other indexes.
        looked_at = near_ids.limit(LOOKED_AT).subquery()
        query = select(run_rows).join(looked_at, looked_at.c.run == run_rows.c.run).where(*rest)
    else:
        query = select(run_rows).where(*near)
    with database(db) as engine, engine.connect() as connection:
        found = connection.execute(query.order_by(newest).limit(limit + 1)).mappings().all()
        if len(found) > limit:
            return [_run(row) for row in found[:limit]], found[limit - 1]["run"]
        end = near_ids.offset(LOOKED_AT - 1).limit(1)
        last = connection.execute(end).scalar() if rest else None
        return [_run(row) for row in found], last


def get(db: object, run: str) -> Run | None:
    """Return the run of this id; raises as `find` does."""
    with database(db) as engine, engine.connect() as connection:
        row = (
            connection.execute(select(run_rows).where(run_rows.c.run == _text(run)))
            .mappings()
            .first()
        )
    return None if row is None else _run(row)


def get_all(db: object, ids: Sequence[str]) -> dict[str, Run]:
    """Return those of these runs that are on record, by their ids; raises as `find` does."""
    with database(db) as engine, engine.connect() as connection:
        return get_many(connection, ids)


def get_many(connection: Connection, ids: Sequence[str]) -> dict[str, Run]:
    """Return those of these runs that are on record, by their ids."""
    query = select(run_rows).where(run_rows.c.run.in_(ids))
    return {row["run"]: _run(row) for row in connection.execute(query).mappings()}


def latest(db: object, job: str) -> Run | None:
    """Return the last run of a job; raises as `find` does."""
    found, _ = find(db, Sought(job=job), limit=1)
    return found[0] if found else None


def latest_of(db: object, jobs: Sequence[str]) -> dict[str, Run]:
    """Return by job the last run of each that is on record; for jobs that ran a few times only."""
    query = select(run_rows).where(run_rows.c.job.in_(jobs)).order_by(run_rows.c.run)
    with database(db) as engine, engine.connect() as connection:
        return {row["job"]: _run(row) for row in connection.execute(query).mappings()}


def attempts(db: object, run: Run) -> list[Attempt]:
    """Return the spent attempts of a run, the oldest first; raises as `find` does."""
    names = [field.name for field in fields(Attempt)]
    query = (
        select(*(attempt_rows.c[name] for name in names))
        .where(attempt_rows.c.run == run.run)
        .order_by(attempt_rows.c.number)
    )
    with database(db) as engine, engine.connect() as connection:
        found = [Attempt(**row) for row in connection.execute(query).mappings()]
    if run.state == "completed" and run.attempt not in {attempt.number for attempt in found}:
        # The run says all of it, so it has no row.
        found.append(
            Attempt(
                number=run.attempt,
                started_at=run.started_at,
                ended_at=run.ended_at,
                worker=run.worker,
                outcome="completed",
            )
        )
    return found


def _equal(sought: Sought) -> dict[str, str]:
    names = (*_RARE, "state", "type", "queue")
    equal = {
        name: indexed(_text(value))
        for name in names
        if (value := getattr(sought, name)) is not None
    }
    if sought.is_dead or sought.error is not None:
        equal.setdefault("state", "failed")
    return equal


def _near(sought: Sought) -> tuple[list[ColumnElement[bool] | TextClause], set[str]]:
    """Return the conditions that one index answers in the order of pages, and what they settle."""
    equal = _equal(sought)
    conditions: list[ColumnElement[bool] | TextClause] = []
    rare = next((name for name in _RARE if name in equal), None)
    kind = "type" if "type" in equal else "queue"
    names = {rare} if rare else {kind}
    if sought.is_dead and rare == "fingerprint":
        conditions.append(DEAD)
    elif rare is None and equal.get("state", "completed") != "completed":
        conditions.append(NOT_COMPLETED)
        names = {"state", kind}
    conditions += [run_rows.c[name] == equal[name] for name in sorted(names & set(equal))]
    if sought.enqueued_from is not None:
        conditions.append(run_rows.c.run >= _id_at(sought.enqueued_from - _LONGEST_OUTSIDE))
    if sought.enqueued_before is not None:
        conditions.append(run_rows.c.run < _id_at(sought.enqueued_before + _CLOCKS_DIFFER))
    return conditions, names


def conditions(
    sought: Sought,
    columns: ReadOnlyColumnCollection[str, Any],
    *,
    but: Collection[str] = (),
) -> list[ColumnElement[bool]]:
    """Return what a search asks of the columns of runs, but for those that are settled already."""
    equal = _equal(sought)
    found = [columns[name] == value for name, value in equal.items() if name not in but]
    if sought.is_dead:
        found.append(columns.settled_at.is_(None))
    if sought.error is not None:
        found.append(columns.error_message.icontains(_text(sought.error), autoescape=True))
    if sought.enqueued_from is not None:
        found.append(columns.enqueued_at >= sought.enqueued_from)
    if sought.enqueued_before is not None:
        found.append(columns.enqueued_at < sought.enqueued_before)
    return found


def _id_at(moment: datetime) -> str:
    """Return what ids of runs that were made at a time begin with; see ids.py."""
    return f"{max(0, int(moment.timestamp() * 1000)):011x}"


def _text(asked: str) -> str:
    # As it is recorded: PostgreSQL refuses NUL, and no database takes what is not Unicode.
    return asked.encode(errors="backslashreplace").decode().replace("\0", "\ufffd")


def _run(row: RowMapping) -> Run:
    values = dict(row)
    result, sent = values.pop("result"), values.pop("payload")
    return Run(
        **values,
        has_result=result is not None,
        result=_value(result),
        has_payload=sent is not None,
        payload=_value(sent),
    )


def _value(text: str | None) -> Any:
    if text is None:
        return None
    try:
        return payload.loads(text)
    except ValueError:
        return text
