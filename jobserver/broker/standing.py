"""How a recurring entry stands, and what became of its ticks: values, as Redis tells them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, cast

from jobserver.broker.entry import Entry

State = Literal["active", "paused", "parked", "ended"]
Word = Literal["made", "noted", "skipped", "missed", "triggered"]

FIELDS = ("tick", "paused", "ended", "parked", "made", "skipped", "missed", "job")


@dataclass(frozen=True, kw_only=True, slots=True)
class Schedule:
    """A recurring entry as it stands: its next tick (UTC), and how many ticks became what.

    `reason` says why it is parked; `last_job` is the id of the job it made last.
    """

    entry: Entry
    state: State
    next_at: datetime | None
    reason: str = ""
    made: int = 0
    skipped: int = 0
    missed: int = 0
    last_job: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Tick:
    """What became of a tick, or of `number` missed ones, the first of which was due `at` (UTC).

    `job` is the one that was made, or the active one for which the tick was skipped.
    """

    at: datetime
    word: Word
    number: int
    job: str | None
    noted_at: datetime


def schedule_of(name: str, text: bytes, values: Sequence[bytes | None]) -> Schedule:
    """Return how an entry stands, from its JSON and the FIELDS of its state."""
    told = {k: v.decode() for k, v in zip(FIELDS, values, strict=True) if v is not None}
    reason = told.get("parked", "")
    state: State = "active"
    try:
        entry = Entry.from_json(text)
    except ValueError as error:
        entry, reason = Entry(id=name, type="", payload={}), str(error)
    if "ended" in told:
        state = "ended"
    elif "paused" in told:
        state = "paused"
    elif reason:
        state = "parked"
    return Schedule(
        entry=entry,
        state=state,
        next_at=_time(told["tick"]) if "tick" in told else None,
        reason=reason,
        made=int(told.get("made", 0)),
        skipped=int(told.get("skipped", 0)),
        missed=int(told.get("missed", 0)),
        last_job=told.get("job"),
    )


def tick_of(text: str) -> Tick:
    """Return what a line of an entry's last ticks says."""
    at, word, number, job, noted = text.split(" ")
    return Tick(
        at=_time(at),
        word=cast("Word", word),
        number=int(number),
        job=None if job == "-" else job,
        noted_at=_time(noted),
    )


def _time(milliseconds: str | bytes) -> datetime:
    return datetime.fromtimestamp(int(milliseconds) / 1000, tz=UTC)
