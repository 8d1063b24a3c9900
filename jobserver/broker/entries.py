"""Recurring entries and the schedulers that serve them, as they stand in Redis."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, cast

from jobserver.broker import keys
from jobserver.broker.broker import BULK, Broker, available
from jobserver.broker.connection import sibling
from jobserver.broker.entry import Entry, Step
from jobserver.broker.request import EnqueueRequest
from jobserver.broker.scripts import Argument
from jobserver.broker.standing import FIELDS, Schedule, Tick, schedule_of, tick_of
from jobserver.policy import Retention

ENTRIES = f"{keys.OURS}entries"
DUE = f"{keys.OURS}due"
WAKE = f"{keys.OURS}wake"
SCHEDULERS = f"{keys.OURS}schedulers"

PARKED = 10.0  # seconds until what cannot be fired is tried again: a deploy may be under way
WAIT = 2.0  # seconds that the server holds one wait; then a dead connection would show
FIRED = 100  # ticks per script call: some 5 ms of the server's time

_NO_JOB = ("",) * len(fields(EnqueueRequest))


@dataclass(frozen=True, kw_only=True, slots=True)
class Firing:
    """One step of an entry, with the job that it makes, None when its ticks are only given up.

    `retention` is of the job's queue. Without `step` it is fired by hand: it stays where it stands.
    """

    entry: Entry
    step: Step | None
    request: EnqueueRequest | None = None
    retention: Retention | None = None
    at: int = 0  # Unix ms, when fired by hand


@dataclass(frozen=True, kw_only=True, slots=True)
class Fired:
    """What became of a firing; `job` is the one that was made, or that is in its way.

    `word` is 'passed' when another scheduler was first, or the entry is paused, gone or at its end.
    `canceled` is the job before, which had not started.
    """

    word: str
    job: str
    canceled: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Due:
    """What is due at `now` (Unix ms of the server), and when the next other entry is.

    An entry comes with the tick where it stands; one that cannot be read as the reason for that.
    """

    now: int
    entries: Sequence[tuple[str, int, Entry | ValueError]]
    upcoming: int | None


class Entries:
    """The verbs over recurring entries. Raises RedisUnavailable when Redis cannot be reached."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._waiting = sibling(broker.connection, timeout=WAIT + 1)

    def declare(self, entries: Sequence[Entry], *, prune: bool) -> None:
        """Add or change entries; those that are as declared already stay untouched.

        A new one, and one with new times, comes due at its next tick; a tick that is due already
        stays due. One that an operator paused stays paused. Safe to repeat and to run anywhere at
        once. `prune` removes those of the registry that are not among them.
        """
        wanted = {entry.id: entry for entry in entries}
        with available():
            texts = cast("dict[bytes, bytes]", self._broker.connection.hgetall(ENTRIES))
        known = {name.decode(): text for name, text in texts.items()}
        self._write(list(wanted.values()), known)
        if prune and (gone := [n for n in known.keys() - wanted.keys() if _is_declared(known[n])]):
            self._broker.run_script("remove", *gone)

    def put(self, entry: Entry, *, seen: bytes | None) -> bool:
        """Add or change one entry; False if by now it is not as `seen` (None: there was none)."""
        return self._write([entry], {entry.id: seen} if seen else {}) == 0

    def _write(self, entries: Sequence[Entry], known: Mapping[str, bytes]) -> int:
        changed = [entry for entry in entries if known.get(entry.id) != entry.to_json()]
        parts = (changed[start : start + BULK] for start in range(0, len(changed), BULK))
        return sum(self._write_part(part, known) for part in parts)

    def _write_part(self, changed: Sequence[Entry], known: Mapping[str, bytes]) -> int:
        now = self.now()
        made = self._made([entry.id for entry in changed])
        arguments: list[Argument] = []
        for entry in changed:
            seen = known.get(entry.id)
            before = _readable(seen) if seen else None
            is_timed = before is not None and before.timing == entry.timing
            is_over = entry.count is not None and made[entry.id] >= entry.count
            tick = None if is_timed or is_over else entry.first(after=now)
            is_over = is_over or (tick is None and not is_timed)
            paused = "" if before and before.paused == entry.paused else str(int(entry.paused))
            arguments.extend((entry.id, seen or b"", entry.to_json()))
            arguments.extend((tick, entry.due(tick)) if tick is not None else ("", ""))
            arguments.extend(("ended" if is_over else "", paused))
        return int(self._broker.run_script("declare", *arguments))

    def _made(self, ids: Sequence[str]) -> dict[str, int]:
        answers = self._exchange([("HGET", state_key(name), "made") for name in ids])
        return {name: int(made or 0) for name, made in zip(ids, answers, strict=True)}

    def remove(self, entry_id: str) -> bool:
        """Remove an entry; its jobs stay. Returns whether there was one."""
        return bool(self._broker.run_script("remove", entry_id))

    def hold(self, entry_id: str) -> bool | None:
        """Pause an entry; returns whether it was not, None when there is no such entry."""
        changed: int = self._broker.run_script("hold", entry_id, 1)
        return None if changed < 0 else bool(changed)

    def release(self, entry_id: str) -> bool | None:
        """Let a paused entry go on; returns whether it was paused, None when there is none.

        What fell due meanwhile was missed, and is treated so.
        """
        changed: int = self._broker.run_script("hold", entry_id, 0)
        return None if changed < 0 else bool(changed)

    def due(self, *, limit: int = 100) -> Due:
        """Return the entries that are due, the longest due first."""
        now, upcoming, *rows = self._broker.run_script("due", limit)
        found: list[tuple[str, int, Entry | ValueError]] = []
        for name, tick, text in zip(rows[::3], rows[1::3], rows[2::3], strict=True):
            try:
                found.append((name.decode(), int(tick), Entry.from_json(text)))
            except ValueError as error:
                found.append((name.decode(), int(tick), error))
        return Due(now=int(now), upcoming=int(upcoming) if upcoming else None, entries=found)

    def fire(self, firings: Sequence[Firing]) -> list[Fired]:
        """Make the jobs of ticks and set when their entries are due next, each in one step."""
        fired: list[Fired] = []
        for start in range(0, len(firings), FIRED):
            part = firings[start : start + FIRED]
            arguments = [argument for firing in part for argument in _arguments(firing)]
            rows = self._broker.run_script("tick", len(part), *arguments)
            fired += [Fired(**dict(zip(_FIRED, map(bytes.decode, r), strict=False))) for r in rows]
        return fired

    def park(self, parked: Sequence[tuple[str, int, str]]) -> None:
        """Put off entries that cannot be fired: id, the tick where it stands, the reason."""
        arguments = [argument for one in parked for argument in one]
        if arguments:
            self._broker.run_script("park", int(PARKED * 1000), *arguments)

    def wait(self, seconds: float) -> None:
        """Return after so many seconds, WAIT at most, or when an entry was added or changed."""
        with available():
            self._waiting.blpop([WAKE], timeout=min(WAIT, max(0.001, seconds)))

    def close(self) -> None:
        """Leave the connections on which `wait` waits."""
        self._waiting.connection_pool.disconnect()

    def now(self) -> int:
        """Return the server's time in Unix ms, the only one that counts."""
        with available():
            seconds, micros = self._broker.connection.time()
        return seconds * 1000 + micros // 1000

    def are_lost(self) -> bool:
        """Return whether there is no entry at all."""
        with available():
            return not self._broker.connection.exists(ENTRIES)

    def ids(self) -> set[str]:
        """Return the ids of all entries."""
        with available():
            names = cast("list[bytes]", self._broker.connection.hkeys(ENTRIES))
        return {name.decode() for name in names}

    def all(self) -> list[tuple[Entry, float | None]]:
        """Return all entries with the Unix time when each is due, by id."""
        return read(self._broker.run_script("entries"))

    def schedules(self, ids: Iterable[str] | None = None) -> list[Schedule]:
        """Return entries as they stand, all or those of `ids` that there are, by id."""
        if ids is None:
            with available():
                texts = cast("dict[bytes, bytes]", self._broker.connection.hgetall(ENTRIES))
            found = {name.decode(): text for name, text in texts.items()}
        else:
            names = list(ids)
            answer = self._exchange([("HMGET", ENTRIES, *names)])[0] if names else []
            found = {n: text for n, text in zip(names, answer, strict=True) if text}
        names = sorted(found)
        states = self._exchange([("HMGET", state_key(name), *FIELDS) for name in names])
        return [schedule_of(n, found[n], state) for n, state in zip(names, states, strict=True)]

    def ticks(self, entry_id: str) -> list[Tick]:
        """Return the last twenty ticks of an entry, the latest first."""
        (rows,) = self._exchange([("LRANGE", f"{keys.OURS}ticks:{entry_id}", 0, -1)])
        return [tick_of(row.decode()) for row in rows]

    def text(self, entry_id: str) -> bytes | None:
        """Return an entry as it is kept, for `put`."""
        with available():
            return cast("bytes | None", self._broker.connection.hget(ENTRIES, entry_id))

    def _exchange(self, commands: Sequence[Sequence[Argument]]) -> list[Any]:
        with available():
            return self._broker.scripts.exchange(commands)

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
    """Return what the script `entries` answered: entries with the Unix time when each is due.

    One that cannot be read is left out.
    """
    texts, due = (dict(zip(row[::2], row[1::2], strict=True)) for row in answer)
    found = ((name, _readable(texts[name])) for name in sorted(texts))
    return [
        (entry, int(due[name]) / 1000 if name in due else None) for name, entry in found if entry
    ]


def state_key(entry_id: str) -> str:
    """Return the key of what an entry's state is."""
    return f"{keys.OURS}entry:{entry_id}"


_FIRED = ("word", "job", "canceled")


def _arguments(firing: Firing) -> list[Argument]:
    entry, step, request, kept = firing.entry, firing.step, firing.request, firing.retention
    following = step.following if step else None
    fires = firing.at if step is None else step.fires
    return [
        entry.id,
        "" if step is None else step.stands,
        "" if fires is None else fires,
        step.missed if step else 0,
        "" if following is None else following,
        "" if following is None else entry.due(following),
        entry.overlap,
        entry.count or 0,
        kept.failed_count if kept else 0,
        int(kept.failed_age) if kept else 0,
        *(request.arguments() if request else _NO_JOB),
    ]


def _readable(text: bytes) -> Entry | None:
    try:
        return Entry.from_json(text)
    except ValueError:
        return None


def _is_declared(text: bytes) -> bool:
    entry = _readable(text)
    return entry is not None and entry.origin == "registry"
