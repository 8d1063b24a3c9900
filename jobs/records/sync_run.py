"""How far a sync with the outside is: kept with what it writes, so that a killed one goes on."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from datetime import datetime, timedelta
from typing import NamedTuple

from sqlalchemy import String, Text, delete, update
from sqlalchemy.orm import Mapped, Session, mapped_column

from jobs.records.columns import Json, UtcDateTime, utc_now
from jobs.records.database import Base, writing
from jobs.records.errors import SyncOvertaken

KEPT = timedelta(days=30)
"""How long a sync is remembered."""

KEPT_REFUSALS = 100
"""How many records that were refused a sync remembers."""


class Refusal(NamedTuple):
    """A record of the outside that can't be taken: its id, if it has one, and why."""

    id: str | None
    reason: str


class SyncRun(Base):
    """A sync, as Sync has it; `run` is the run of its job, the same in all attempts."""

    __tablename__ = "sync_runs"

    run: Mapped[str] = mapped_column(String(64), primary_key=True)
    kind: Mapped[str] = mapped_column(String(64))
    synced_before: Mapped[datetime | None] = mapped_column(UtcDateTime)
    total: Mapped[int | None]
    cursor: Mapped[str] = mapped_column(Text, default="")
    batches: Mapped[int] = mapped_column(default=0)
    processed: Mapped[int] = mapped_column(default=0)
    errors: Mapped[int] = mapped_column(default=0)
    nameless: Mapped[int] = mapped_column(default=0)
    refusals: Mapped[list[tuple[str | None, str]]] = mapped_column(Json, default=list)
    started_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now, index=True)
    ended_at: Mapped[datetime | None] = mapped_column(UtcDateTime)


@dataclass(frozen=True, kw_only=True)
class Sync:
    """How far a sync is: it has processed so many records, and goes on at `cursor`.

    Records last synced after `synced_before` are not due; without it all are. `total` is how many
    records there are, where that is known. Of the `errors`, `nameless` ones have no id, and the
    first ones are told in `refusals`.
    """

    run: str
    kind: str
    synced_before: datetime | None
    total: int | None
    cursor: str
    batches: int
    processed: int
    errors: int
    nameless: int
    refusals: Sequence[Refusal]
    started_at: datetime
    ended_at: datetime | None

    @property
    def percent(self) -> float:
        """How far it is; 0 until the end where the total is not known."""
        if self.ended_at is not None:
            return 100
        return min(100, 100 * self.processed / self.total) if self.total else 0


def begin_sync(
    run: str, *, kind: str, synced_before: datetime | None = None, total: int | None = None
) -> Sync:
    """Return the sync of this run: a new one, or what an earlier attempt has left."""
    with writing() as session:
        row = session.get(SyncRun, run)
        if row is None:
            row = SyncRun(run=run, kind=kind, synced_before=synced_before, total=total)
            session.add(row)
            session.flush()
            session.execute(delete(SyncRun).where(SyncRun.started_at < row.started_at - KEPT))
        return _sync(row)


def advance_sync(
    session: Session,
    sync: Sync,
    *,
    cursor: str | None,
    processed: int,
    refusals: Sequence[Refusal] = (),
    total: int | None = None,
) -> Sync:
    """Note one more batch in the transaction that writes it; return how far the sync is then.

    Without a cursor the sync has ended. Raises SyncOvertaken when another attempt of the run went
    on with it, since this one's worker was taken for dead: what it wrote must not count.
    """
    further = replace(
        sync,
        cursor=cursor or "",
        batches=sync.batches + 1,
        total=total if sync.total is None else sync.total,
        processed=sync.processed + processed,
        errors=sync.errors + len(refusals),
        nameless=sync.nameless + sum(one.id is None for one in refusals),
        refusals=[*sync.refusals, *refusals][:KEPT_REFUSALS],
        ended_at=utc_now() if cursor is None else None,
    )
    changed = session.connection().execute(
        update(SyncRun)
        .where(SyncRun.run == sync.run, SyncRun.batches == sync.batches)
        .values({field.name: getattr(further, field.name) for field in fields(further)})
    )
    if changed.rowcount != 1:
        raise SyncOvertaken(f"Another attempt went on with the sync {sync.run!r}")
    return further


def _sync(row: SyncRun) -> Sync:
    values = {field.name: getattr(row, field.name) for field in fields(Sync)}
    return Sync(**values | {"refusals": [Refusal(*one) for one in row.refusals]})
