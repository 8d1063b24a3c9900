"""Recurring entries and the schedulers that serve them, as they stand in Redis."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import orjson

from jobserver.broker import keys
from jobserver.broker.broker import Broker, available
from jobserver.broker.request import EnqueueRequest
from jobserver.broker.scripts import Argument

ENTRIES = f"{keys.OURS}entries"
DUE = f"{keys.OURS}due"
SCHEDULERS = f"{keys.OURS}schedulers"


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """A recurring entry: enqueue `type` with `payload` each `seconds`, on the grid of the epoch."""

    id: str
    type: str
    seconds: float
    payload: Mapping[str, object]

    def after(self, moment: float) -> float:
        """Return the first Unix time on the entry's grid that is later than `moment`."""
        step = round(self.seconds * 1000)
        # A time on the grid may lie a hair below it as a float; it must not follow itself.
        milliseconds = math.floor(moment * 1000 + 0.01)
        return (milliseconds // step + 1) * step / 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class Tick:
    """One firing of an entry: its job, and the Unix time when the entry is due after it."""

    entry: Entry
    due: float
    following: float
    request: EnqueueRequest


@dataclass(frozen=True, kw_only=True, slots=True)
class Due:
    """What is due at `now` (Unix time of the server), and when the next other entry is."""

    now: float
    entries: Sequence[tuple[Entry, float]]
    upcoming: float | None


class Entries:
    """The verbs over recurring entries. Raises RedisUnavailable when Redis cannot be reached."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    def declare(self, entries: Sequence[Entry], *, prune: bool) -> None:
        """Add or update entries: new ones come due on their grid, known ones keep their time.

        Safe to repeat and to run anywhere at once. `prune` removes those that are not among them.
        """
        connection = self._broker.connection
        with available():
            seconds, micros = connection.time()
            now = seconds + micros / 1_000_000
            names = cast("list[bytes]", connection.hkeys(ENTRIES))
            known = {name.decode() for name in names}
            pipe = connection.pipeline(transaction=True)
            for entry in entries:
                pipe.hset(ENTRIES, entry.id, orjson.dumps(entry))
                # LT: a tick that was missed stays, and so does one sooner than on a changed grid.
                pipe.zadd(DUE, {entry.id: round(entry.after(now) * 1000)}, lt=True)
            for gone in known - {entry.id for entry in entries} if prune else ():
                pipe.hdel(ENTRIES, gone)
                pipe.zrem(DUE, gone)
            pipe.execute()

    def due(self, *, limit: int = 100) -> Due:
        """Return the entries that are due, the longest due first."""
        now, upcoming, *rows = self._broker.run_script("due", limit)
        return Due(
            now=int(now) / 1000,
            upcoming=int(upcoming) / 1000 if upcoming else None,
            entries=[
                (Entry(**orjson.loads(text)), int(due) / 1000)
                for due, text in zip(rows[1::3], rows[2::3], strict=True)
            ],
        )

    def tick(self, ticks: Sequence[Tick]) -> list[bool]:
        """Make the jobs of these ticks and set when their entries are due next, in one step.

        Returns per tick whether it was made here; False: another scheduler was first.
        """
        arguments: list[Argument] = [len(ticks)]
        for tick in ticks:
            due, following = round(tick.due * 1000), round(tick.following * 1000)
            arguments.extend((tick.entry.id, due, following))
            arguments.extend(tick.request.arguments())
        return [bool(made) for made in self._broker.run_script("tick", *arguments)]

    def all(self) -> list[tuple[Entry, float | None]]:
        """Return all entries with the Unix time when each is due, by id."""
        return read(self._broker.run_script("entries"))

    def beat(self, name: str, *, ttl: float, facts: Mapping[str, str]) -> None:
        """Note that the scheduler `name` lives; it is forgotten after `ttl` seconds of silence."""
        key = f"{keys.OURS}scheduler:{name}"
        with available():
            seconds, _ = self._broker.connection.time()
            pipe = self._broker.connection.pipeline(transaction=True)
            pipe.hset(key, mapping={fact: value for fact, value in facts.items()})
            pipe.pexpire(key, int(ttl * 1000))
            pipe.zadd(SCHEDULERS, {name: seconds})
            pipe.zremrangebyscore(SCHEDULERS, "-inf", seconds - ttl)
            pipe.execute()

    def retire(self, name: str) -> None:
        """Forget a scheduler that ends."""
        with available():
            pipe = self._broker.connection.pipeline(transaction=True)
            pipe.delete(f"{keys.OURS}scheduler:{name}")
            pipe.zrem(SCHEDULERS, name)
            pipe.execute()

    def schedulers(self) -> dict[str, float]:
        """Return the schedulers by name with the Unix time of their last beat (server's clock)."""
        with available():
            beats = self._broker.connection.zrange(SCHEDULERS, 0, -1, withscores=True)
        return {name.decode(): beat for name, beat in cast("list[tuple[bytes, float]]", beats)}


def read(answer: tuple[Sequence[bytes], Sequence[bytes]]) -> list[tuple[Entry, float | None]]:
    """Return what the script `entries` answered: entries with the Unix time when each is due."""
    texts, due = (dict(zip(row[::2], row[1::2], strict=True)) for row in answer)
    return [
        (Entry(**orjson.loads(texts[name])), int(due[name]) / 1000 if name in due else None)
        for name in sorted(texts)
    ]
