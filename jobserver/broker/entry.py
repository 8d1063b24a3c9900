"""A recurring entry: which job falls due when, and what of it is made up for or held back."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from itertools import count, takewhile
from typing import Any, Literal, get_args
from zoneinfo import ZoneInfo

import orjson

from jobserver import cron, payload
from jobserver.errors import FieldError
from jobserver.policy import CENTURY, DAY, HOUR, MINUTE, PRIORITIES, Priority

Misfire = Literal["skip", "once", "all"]
Overlap = Literal["allow", "skip", "queue_one", "cancel_previous"]
Origin = Literal["registry", "api"]

LEAST_SECONDS = 1
MOST_LIMIT = 1000
LAST_YEAR = 3000
COUNTED = 10_000  # missed ticks that one look at an entry counts
MADE = 20  # ticks that one look at an entry makes: others are due, too

UNITS = ((DAY, "d"), (HOUR, "h"), (MINUTE, "m"), (1.0, "s"))

_ID = re.compile(r"[A-Za-z0-9_-]{1,100}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """Enqueue `type` with `payload` at each tick of a cron expression, or each `seconds`.

    Seconds count from `start`, or from the Unix epoch. `timezone` is that of the cron expression.
    A tick may come up to `jitter` seconds later, the same ones for every scheduler. The entry ends
    with the last tick before `end`, or when it has made `count` jobs.

    `misfire` says what becomes of ticks that found no scheduler in time: `once` makes one job, of
    the last of them; `skip` makes it only if it is no later than `grace` seconds; `all` makes each,
    up to the last `limit`. `overlap` says what becomes of a tick while the job of the one before is
    active: `skip` drops it, `queue_one` lets it follow, `cancel_previous` cancels that job, `allow`
    makes it anyway.
    """

    id: str
    type: str
    payload: Mapping[str, object]
    cron: str | None = None
    seconds: float | None = None
    timezone: str = "UTC"
    jitter: float = 0
    start: datetime | None = None
    end: datetime | None = None
    count: int | None = None
    misfire: Misfire = "once"
    limit: int = 100
    grace: float = 60
    overlap: Overlap = "skip"
    priority: Priority = "normal"
    paused: bool = False
    origin: Origin = "registry"

    @property
    def timing(self) -> tuple[object, ...]:
        """What its ticks come from."""
        return (
            *(self.cron, self.seconds, self.timezone, self.jitter),
            *(self.start, self.end, self.count),
        )

    @property
    def when(self) -> str:
        """Its ticks in words: `every 20m`, `30 2 * * * Europe/Berlin`."""
        if self.cron is not None:
            return self.cron if self.timezone == "UTC" else f"{self.cron} {self.timezone}"
        seconds = self.seconds or LEAST_SECONDS
        size, unit = next(one for one in UNITS if seconds % one[0] == 0 or one[1] == "s")
        return f"every {seconds / size:g}{unit}"

    @property
    def summary(self) -> str:
        """Its job type and its ticks in words."""
        return f"{self.type}, {self.when}"

    def ticks(self, *, after: int) -> Iterator[int]:
        """Yield the ticks later than `after`, in order; all in Unix milliseconds."""
        start = _milliseconds(self.start) if self.start else None
        if start is not None:
            after = max(after, start - 1)
        if self.cron is not None:
            moments = cron.parse(self.cron).moments(zone(self.timezone), after=after // 1000)
            found: Iterator[int] = (moment * 1000 for moment in moments)
        else:
            step = round((self.seconds or LEAST_SECONDS) * 1000)
            first = start or 0
            found = count(first + ((after - first) // step + 1) * step, step)
        if self.end is None:
            return found
        end = _milliseconds(self.end)
        return takewhile(lambda tick: tick < end, found)

    def first(self, *, after: int) -> int | None:
        """Return the first tick later than `after`, None when there is none; Unix ms."""
        return next(self.ticks(after=after), None)

    def due(self, tick: int) -> int:
        """Return when a tick falls due: itself, and its jitter; Unix ms."""
        most = round(self.jitter * 1000)
        return tick + zlib.crc32(f"{self.id} {tick}".encode()) % (most + 1) if most else tick

    def tick_id(self, tick: int) -> str:
        """Return the id of a tick's job: `<id>-<Unix seconds>`."""
        seconds, rest = divmod(tick, 1000)
        return f"{self.id}-{seconds}_{rest:03d}" if rest else f"{self.id}-{seconds}"

    def steps(self, tick: int, *, now: int) -> list[Step]:
        """Return what is to be done at `now` when the entry stands at `tick`; both Unix ms."""
        ticks, following = self._fallen_due(tick, now=now)
        keep = self.limit if self.misfire == "all" else 1
        made, given_up = ticks[-keep:], len(ticks[:-keep])
        if following is not None and self.due(following) <= now:
            # More than one look counts: give up those that can't be among the last.
            return [Step(stands=tick, fires=None, missed=given_up, following=made[0])]
        if self.misfire == "skip" and now - self.due(made[-1]) > self.grace * 1000:
            return [Step(stands=tick, fires=None, missed=len(ticks), following=following)]
        stands = [tick, *made[1:]]
        return [
            Step(stands=at, fires=fires, missed=0 if number else given_up, following=after)
            for number, (at, fires, after) in enumerate(
                zip(stands, made, [*made[1:], following], strict=True)
            )
        ][:MADE]

    def _fallen_due(self, tick: int, *, now: int) -> tuple[list[int], int | None]:
        ticks = [tick]
        for following in self.ticks(after=tick):
            if len(ticks) == COUNTED or self.due(following) > now:
                return ticks, following
            ticks.append(following)
        return ticks, None

    def problems(self) -> list[FieldError]:
        """Return what of it cannot work, by field."""
        return [
            {"pointer": f"#/{name}", "detail": detail}
            for name, detail in self._problems()
            if detail
        ]

    def _problems(self) -> Iterator[tuple[str, str]]:
        if not _ID.fullmatch(str(self.id)):
            yield "id", "Use letters, digits, _ and -, 100 at most."
        yield from self._timing_problems()
        yield "jitter", _number(self.jitter, least=0, most=DAY)
        yield (
            "grace",
            _number(self.grace, least=1, most=CENTURY),
        )  # a tick may be late by that anyway
        yield "limit", _number(self.limit, least=1, most=MOST_LIMIT, whole=True)
        if self.count is not None:
            yield "count", _number(self.count, least=1, most=2**53, whole=True)
        for name, choices in (
            ("misfire", get_args(Misfire)),
            ("overlap", get_args(Overlap)),
            ("priority", tuple(PRIORITIES)),
        ):
            if getattr(self, name) not in choices:
                yield name, f"Use {', '.join(choices)}."

    def _timing_problems(self) -> Iterator[tuple[str, str]]:
        for name, moment in (("start", self.start), ("end", self.end)):
            if moment is None:
                continue
            if moment.tzinfo is None:
                yield name, "Must be a time with its offset from UTC."
                return
            if not 1970 < moment.year < LAST_YEAR:
                yield name, f"Must be between the years 1970 and {LAST_YEAR}."
                return
        if self.start and self.end and self.end <= self.start:
            yield "end", "Must be later than start."
        try:
            named = zone(self.timezone)
        except ValueError as error:
            yield "timezone", str(error)
            return
        if (self.cron is None) == (self.seconds is None):
            yield "cron", "Give either cron or seconds."
        elif self.cron is None:
            yield "seconds", _number(self.seconds, least=LEAST_SECONDS, most=CENTURY)
            if self.seconds and self.jitter >= self.seconds:
                yield "jitter", "Must be shorter than the interval."
        else:
            try:
                moments = cron.parse(self.cron).moments(named, after=0)
            except ValueError as error:
                yield "cron", f"Not understood: {error}."
                return
            if next(moments, None) is None:
                yield "cron", f"{self.cron!r} names no day that there is."

    def to_json(self) -> bytes:
        """Return the entry as JSON text; raises TypeError for a payload that JSON cannot say."""
        return payload.dumps(self)

    @classmethod
    def from_json(cls, text: bytes) -> Entry:
        """Return the entry that a JSON text holds; raises ValueError for one of another release."""
        fields: dict[str, Any] = orjson.loads(text)
        try:
            for name in ("start", "end"):
                if fields.get(name):
                    fields[name] = datetime.fromisoformat(fields[name])
            return cls(**fields)
        except (TypeError, AttributeError) as error:
            raise ValueError(f"it is of another release: {error}") from None


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One step of an entry on its grid, in Unix ms: from the tick where it stands to `following`.

    It makes the job of the tick `fires` (None: none) and gives up `missed` ticks before it. None
    follows the last tick.
    """

    stands: int
    fires: int | None
    missed: int
    following: int | None


@cache
def zone(name: str) -> ZoneInfo:
    """Return the time zone of an IANA name; raises ValueError."""
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError, TypeError, AttributeError):
        raise ValueError(
            f"{name!r} is no time zone: use a name of IANA's, as Europe/Berlin"
        ) from None


def wrong_fields(problems: Sequence[FieldError]) -> str:
    """Return problems as one line."""
    return "; ".join(f"{one['pointer'].removeprefix('#/')}: {one['detail']}" for one in problems)


def _milliseconds(moment: datetime) -> int:
    return round(moment.astimezone(UTC).timestamp() * 1000)


def _number(value: float | None, *, least: float, most: float, whole: bool = False) -> str:
    # Not so for nan either.
    is_accepted = value is not None and least <= value <= most and (not whole or value % 1 == 0)
    what = "a whole number" if whole else "a number"
    return "" if is_accepted else f"Must be {what} from {least:g} to {most:.0f}."
