"""Cron expressions: the moments of a time zone that they name, also where its clock changes.

Five fields (minute, hour, day of the month, month, weekday) or six, seconds first; names (`jan`,
`mon`), lists, ranges (`fri-mon` goes round), steps, and `@hourly` and its like. A day must match
both day fields when one of them begins with `*`, else one of them is enough (crontab(5)).

Where the clock is put forward, times that it leaves out fall due once, right after the change;
where it is put back, times that come twice fall due the first time only. An hour field that begins
with `*`, or names every hour, goes by real time instead: through both passes, and over the gap.
"""

from __future__ import annotations

import re
from calendar import monthrange
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from functools import lru_cache
from zoneinfo import ZoneInfo

DAY = 86_400
SEARCHED = 41 * 366 * DAY  # to the next moment: a 29 February on one weekday may take 40 years
EPOCH = date(1970, 1, 1).toordinal()

ALIASES = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
_WEEKDAYS = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"]
_PART = re.compile(r"(?:\*|([a-z]+|\d+)(?:-([a-z]+|\d+))?)(?:/(\d+))?", re.ASCII)


@dataclass(frozen=True, kw_only=True, slots=True)
class Field:
    """What one field may hold: whole numbers from `low` to `high`, or names for them."""

    name: str
    low: int
    high: int
    names: Mapping[str, int]

    def parse(self, text: str) -> tuple[int, ...]:
        """Return the numbers that the field's text stands for, ascending; raises ValueError."""
        return tuple(sorted({number for part in text.split(",") for number in self._part(part)}))

    def _part(self, text: str) -> Iterator[int]:
        found = _PART.fullmatch(text)
        if not found:
            raise ValueError(
                f"the {self.name} {text!r} is not understood: use numbers, names, *, ranges a-b, "
                "steps /n and lists"
            )
        first, last, step = found.groups()
        start = self.low if first is None else self._number(first)
        if last is not None:
            stop = self._number(last)
        else:
            stop = self.high if first is None or step else start
        if step and not 1 <= int(step) <= self.high:
            raise ValueError(f"the {self.name}'s step {text!r} must be from 1 to {self.high}")
        span = self.high - self.low + 1
        stop += span if stop < start else 0
        for number in range(start, stop + 1, int(step or 1)):
            yield self.low + (number - self.low) % span

    def _number(self, text: str) -> int:
        number = self.names.get(text, -1) if text.isalpha() else int(text)
        highest = 7 if self.name == "weekday" else self.high  # a week may end with Sunday, too
        if not self.low <= number <= highest:
            names = f", or {', '.join(self.names)}" if self.names else ""
            raise ValueError(f"the {self.name} {text!r} must be {self.low} to {highest}{names}")
        return number


FIELDS = (
    Field(name="second", low=0, high=59, names={}),
    Field(name="minute", low=0, high=59, names={}),
    Field(name="hour", low=0, high=23, names={}),
    Field(name="day", low=1, high=31, names={}),
    Field(name="month", low=1, high=12, names={n: i for i, n in enumerate(_MONTHS, 1)}),
    Field(name="weekday", low=0, high=6, names={n: i for i, n in enumerate(_WEEKDAYS)}),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Expression:
    """A cron expression that has been read."""

    seconds: Sequence[int]
    minutes: Sequence[int]
    hours: Sequence[int]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]  # Sunday is 0
    needs_both: bool  # whether a day must match day of the month and weekday
    by_real_time: bool  # whether the hours go on through changes of the clock

    def moments(self, zone: ZoneInfo, *, after: int) -> Iterator[int]:
        """Yield the Unix times later than `after`, in order; ends when no more come."""
        start = last = latest = after
        offset = _offset(start, zone)
        while start - latest <= SEARCHED:
            # Two days before the next day that matches: no change of the clock is longer than one.
            if (near := self._next_day(start + offset) - offset - 2 * DAY) > start:
                start, offset = near, _offset(near, zone)
                continue
            stop = _next_change(start, start + DAY, zone)
            new = _offset(stop, zone)
            for local in self._times(start + offset, stop + offset):
                moment = local - offset
                if moment > last and (self.by_real_time or not _is_second_pass(moment, zone)):
                    last = latest = moment
                    yield moment
            left_out = self._times(stop + offset, stop + new)
            if not self.by_real_time and stop > last and any(True for _ in left_out):
                last = latest = stop
                yield stop
            start, offset = stop, new

    def _next_day(self, local: int) -> int:
        """Return when the next day begins that matches, or when the search may end."""
        number = local // DAY
        last = number + SEARCHED // DAY + 2
        while number <= last:
            day = date.fromordinal(EPOCH + number)
            if day.month not in self.months:
                number += monthrange(day.year, day.month)[1] - day.day + 1
            elif self._has(day):
                break
            else:
                number += 1
        return number * DAY

    def _times(self, start: int, stop: int) -> Iterator[int]:
        """Yield what matches of a clock that never changes, in seconds since the epoch."""
        for number in range(start // DAY, -(-stop // DAY)):
            if not self._has(date.fromordinal(EPOCH + number)):
                continue
            for hour in self.hours:
                at = number * DAY + hour * 3600
                if at + 3600 <= start or at >= stop:
                    continue
                for minute in self.minutes:
                    if at + minute * 60 + 60 <= start:
                        continue
                    for second in self.seconds:
                        time = at + minute * 60 + second
                        if time >= stop:
                            return
                        if time >= start:
                            yield time

    def _has(self, day: date) -> bool:
        if day.month not in self.months:
            return False
        of_month, of_week = day.day in self.days, day.isoweekday() % 7 in self.weekdays
        return (of_month and of_week) if self.needs_both else (of_month or of_week)


@lru_cache(maxsize=16_384)
def parse(text: str) -> Expression:
    """Return what a cron expression means; raises ValueError that says what is wrong in it."""
    fields = ALIASES.get(text.strip().lower(), text).lower().split()
    if text.lstrip().startswith("@") and len(fields) == 1:
        raise ValueError(f"{text!r} is not known: use {', '.join(ALIASES)}")
    if len(fields) not in (5, 6):
        raise ValueError(f"{text!r} has {len(fields)} fields: use 5, or 6 with seconds first")
    if len(fields) == 5:
        fields = ["0", *fields]
    seconds, minutes, hours, days, months, weekdays = (
        field.parse(part) for field, part in zip(FIELDS, fields, strict=True)
    )
    return Expression(
        seconds=seconds,
        minutes=minutes,
        hours=hours,
        days=frozenset(days),
        months=frozenset(months),
        weekdays=frozenset(weekdays),
        needs_both=fields[3].startswith("*") or fields[5].startswith("*"),
        by_real_time=fields[2].startswith("*") or len(hours) == 24,
    )


def _offset(moment: int, zone: ZoneInfo) -> int:
    offset = datetime.fromtimestamp(moment, zone).utcoffset()
    return round(offset.total_seconds()) if offset else 0


def _is_second_pass(moment: int, zone: ZoneInfo) -> bool:
    return datetime.fromtimestamp(moment, zone).fold == 1


def _next_change(start: int, stop: int, zone: ZoneInfo) -> int:
    """Return the moment after `start` at which the clock changes, `stop` if that is later."""
    offset = _offset(start, zone)
    if _offset(stop, zone) == offset:
        return stop
    while stop - start > 1:
        middle = (start + stop) // 2
        if _offset(middle, zone) == offset:
            start = middle
        else:
            stop = middle
    return stop
