"""Cron expressions, against a reference that walks through UTC minute by minute."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import islice
from typing import NamedTuple
from zoneinfo import ZoneInfo

import pytest
from croniter import croniter  # type: ignore[import-untyped]
from hypothesis import given
from hypothesis import strategies as st

from jobserver.broker.entry import Entry
from jobserver.cron import parse

MINUTE = timedelta(minutes=1)
MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
WEEKDAYS = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"]
NAMES = {
    **{name: number for number, name in enumerate(MONTHS, 1)},
    **{name: number for number, name in enumerate(WEEKDAYS)},
}
# Changes by an hour at two and at three, by half an hour, at midnight, over midnight, from +12:45.
ZONES = (
    "Europe/Berlin",
    "America/New_York",
    "Australia/Lord_Howe",
    "America/Havana",
    "Africa/Cairo",
    "Pacific/Chatham",
)
CRONS = """
30 2 * * *|0 2 * * *|0 3 * * *|15 1 * * *|59 1 * * *|45 2 * * *|0 0 * * *|30 0 * * *
*/15 2 * * *|* 2 * * *|0-29 1 * * *|*/7 1-3 * * *|0 1,2,3 * * *|30 2,3 * * *|20,40 0-4 * * *
0 * * * *|30 * * * *|*/15 * * * *|*/10 * * * *|5/10 * * * *|17 */2 * * *|0 */6 * * *|30 0-23 * * *
@hourly|@daily|@weekly|@monthly|45 23 * * *|0 23 * * *|30 23 * * sat|59 23 * * *|0 12 * * *
30 2 * * sun|30 2 * * mon-fri|0 9 * * 1-5|0 22-2 * * *|15 2 29 3 *|30 0 24 4 *|0 3 * nov,oct sun
0 2 1-7 * sun|0 2 1,15 * fri|30 1 */2 * mon|0 0 25 * *|*/30 1-3 25 10 *|1 1 8-31 mar sun
0 4 * * 7|10 2 * 3,4,10,11 *|0 2 * * fri-mon|*/20 2-3 * * thu,fri|0 1 31 10 *|30 2 5 4 *
""".replace("\n", "|").strip("|").split("|")  # fmt: skip


ALIASES = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
}


def test_there_are_fifty_entries() -> None:
    assert len(CRONS) >= 50


class Minute(NamedTuple):
    """A minute of UTC, the wall clock then, and the wall clock's minutes left out before it."""

    moment: int
    wall: datetime
    is_second_pass: bool
    left_out: list[datetime]


@cache
def minutes(name: str, start: int, days: int) -> dict[int, list[Minute]]:
    """Return every minute of some days as it is in a zone, by its number in its hour.

    Under -1 once more those that the clock jumped to.
    """
    zone = ZoneInfo(name)
    walked: dict[int, list[Minute]] = {number: [] for number in range(-1, 60)}
    before = datetime.fromtimestamp(start - 60, zone).replace(tzinfo=None)
    for moment in range(start, start + days * 86_400, 60):
        now = datetime.fromtimestamp(moment, zone)
        wall, left_out = now.replace(tzinfo=None, fold=0), []
        while (before := before + MINUTE) < wall:
            left_out.append(before)
        walked[wall.minute].append(Minute(moment, wall, now.fold == 1, left_out))
        if left_out:
            walked[-1].append(walked[wall.minute][-1])
        before = wall
    return walked


def holds(text: str, value: int, *, low: int, high: int) -> bool:
    """Tell whether one field of a cron expression, without its alias, accepts a value."""

    def number(word: str) -> int:
        return NAMES[word] if word in NAMES else int(word)

    for part in text.split(","):
        body, _, step = part.partition("/")
        first, _, last = body.partition("-")
        if body == "*":
            begin, end = low, high
        else:
            begin = number(first)
            end = number(last) if last else high if step else begin
        for candidate in (value, value + (high - low + 1)):
            wraps = end + (high - low + 1 if end < begin else 0)
            if begin <= candidate <= wraps and (candidate - begin) % int(step or 1) == 0:
                return True
    return False


@cache
def accepted(text: str, low: int, high: int) -> frozenset[int]:
    return frozenset(v for v in range(low, high + 1) if holds(text, v, low=low, high=high))


def reference(text: str, name: str, start: int, days: int) -> list[int]:
    """Return the Unix times of an expression, by looking at every minute."""
    minute, hour, day, month, weekday = ALIASES.get(text, text).split()
    by_real_time = hour.startswith("*") or len(accepted(hour, 0, 23)) == 24
    both = "*" in (day[0], weekday[0])
    of_minute, of_hour, of_day = (
        accepted(part, low, high)
        for part, low, high in ((minute, 0, 59), (hour, 0, 23), (day, 1, 31))
    )
    of_month, of_week = accepted(month, 1, 12), accepted(weekday, 0, 6)

    def matches(wall: datetime) -> bool:
        if wall.minute not in of_minute or wall.hour not in of_hour or wall.month not in of_month:
            return False
        days = wall.day in of_day, wall.isoweekday() % 7 in of_week
        return all(days) if both else any(days)

    walked = minutes(name, start, days)
    found = {
        now.moment
        for number in of_minute
        for now in walked[number]
        if matches(now.wall) and (by_real_time or not now.is_second_pass)
    }
    if not by_real_time:
        found |= {now.moment for now in walked[-1] if any(map(matches, now.left_out))}
    return sorted(found)


def by_the_scheduler(entry: Entry, start: int, days: int) -> Iterator[int]:
    """Yield the ticks that a scheduler fires which looks at the entry whenever it is due."""
    tick = entry.first(after=start * 1000 - 1)
    while tick is not None and tick < (start + days * 86_400) * 1000:
        (step,) = entry.steps(tick, now=tick)
        assert (step.fires, step.missed) == (tick, 0)
        yield tick // 1000
        tick = step.following


@cache
def changes(name: str) -> tuple[int, ...]:
    """Return the two hours of 2026 in which a zone's clock changes, in Unix time."""
    zone, begin = ZoneInfo(name), int(datetime(2026, 1, 1, tzinfo=UTC).timestamp())
    hours = range(begin, begin + 365 * 86_400, 3600)
    offsets = [datetime.fromtimestamp(hour, zone).utcoffset() for hour in hours]
    pairs = zip(hours[1:], offsets, offsets[1:], strict=False)
    return tuple(hour for hour, before, after in pairs if before != after)


@pytest.mark.parametrize("name", ZONES)
def test_every_tick_around_a_change_of_the_clock_is_the_references(name: str) -> None:
    assert len(changes(name)) == 2
    for change in changes(name):
        start = change // 86_400 * 86_400 - 3 * 86_400
        for text in CRONS:
            entry = Entry(id="a", type="a", payload={}, cron=text, timezone=name)
            found = list(by_the_scheduler(entry, start, 7))
            assert found == reference(text, name, start, 7), text
            assert len(found) == len(set(found)), text


@pytest.mark.parametrize(
    ("text", "spring", "autumn"),
    [
        ("30 2 * * *", ["03:00+02"], ["02:30+02"]),
        ("*/15 2 * * *", ["03:00+02"], ["02:00+02", "02:15+02", "02:30+02", "02:45+02"]),
        ("0 2,3 * * *", ["03:00+02"], ["02:00+02", "03:00+01"]),
        ("30 * * * *", ["01:30+01", "03:30+02"], ["01:30+02", "02:30+02", "02:30+01", "03:30+01"]),
    ],
)
def test_the_rule_for_changes_of_the_clock_by_example(
    text: str, spring: list[str], autumn: list[str]
) -> None:
    zone = ZoneInfo("Europe/Berlin")
    for day, wanted in ((datetime(2026, 3, 29), spring), (datetime(2026, 10, 25), autumn)):
        after = int(day.replace(hour=0, minute=59, tzinfo=zone).timestamp())
        times = (datetime.fromtimestamp(m, zone) for m in parse(text).moments(zone, after=after))
        assert [f"{t:%H:%M%z}"[:-2] for t in islice(times, len(wanted))] == wanted


def field(low: int, high: int, names: list[str]) -> st.SearchStrategy[str]:
    number = st.integers(low, high).map(str)
    number = number | st.sampled_from(names) if names else number
    span = st.tuples(number, number).map("-".join)
    stepped = st.tuples(span | st.just("*") | number, st.integers(1, high).map(str)).map("/".join)
    part = st.one_of(number, span, stepped, st.just("*"))
    return st.just("*") | st.lists(part, min_size=1, max_size=3).map(",".join)


crons = st.tuples(
    field(0, 59, []),
    field(0, 23, []),
    st.just("*") | field(1, 31, []),
    st.just("*") | field(1, 12, ["jan", "oct", "apr"]),
    st.just("*") | field(0, 6, WEEKDAYS),
).map(" ".join)


@given(text=crons, name=st.sampled_from(ZONES), which=st.integers(0, 1))
def test_odd_expressions_agree_with_the_reference(text: str, name: str, which: int) -> None:
    start = changes(name)[which] // 86_400 * 86_400 - 86_400
    stop = start + 3 * 86_400
    found = []
    for moment in parse(text).moments(ZoneInfo(name), after=start - 1):
        if moment >= stop:
            break
        found.append(moment)
    assert found == reference(text, name, start, 3)


def plain(low: int, high: int) -> st.SearchStrategy[str]:
    """Return what croniter reads as cron does: to it, 5-5 is every value."""
    number = st.integers(low, high).map(str)
    span = st.sets(st.integers(low, high), min_size=2, max_size=2).map(sorted)
    spans = span.map(lambda ends: f"{ends[0]}-{ends[1]}")
    step = st.integers(1, high).map(lambda every: f"*/{every}")
    return st.just("*") | step | st.lists(number | spans, min_size=1, max_size=3).map(",".join)


@given(
    text=st.tuples(plain(0, 59), plain(0, 23), plain(1, 28), plain(1, 12), plain(0, 6)).map(
        " ".join
    ),
    after=st.integers(0, 4_000_000_000),
)
def test_odd_expressions_agree_with_croniter_where_no_clock_changes(text: str, after: int) -> None:
    ours = list(islice(parse(text).moments(ZoneInfo("UTC"), after=after), 3))
    theirs = croniter(text, after, ret_type=float, implement_cron_bug=True)
    if ours:
        assert ours == [int(theirs.get_next()) for _ in ours]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("* * * *", "4 fields"),
        ("* * * * * * *", "7 fields"),
        ("", "0 fields"),
        ("60 * * * *", "minute '60' must be 0 to 59"),
        ("* 24 * * *", "hour '24' must be 0 to 23"),
        ("* * 0 * *", "day '0' must be 1 to 31"),
        ("* * * foo *", "month 'foo' must be 1 to 12, or jan, feb"),
        ("* * * * 8", "weekday '8' must be 0 to 7, or sun, mon"),
        ("*/0 * * * *", "step"),
        ("*/60 * * * *", "step"),
        ("* * L * *", "day 'l' must be"),
        ("* * 15W * *", "day '15w' is not understood"),
        ("* * * * fri#2", "weekday 'fri#2' is not understood"),
        ("H * * * *", "minute 'h' must be"),
        ("1,,2 * * * *", "minute '' is not understood"),
        ("-1 * * * *", "is not understood"),
        ("@reboot", "@hourly"),
    ],
)
def test_what_is_not_understood_is_refused_by_its_field(text: str, told: str) -> None:
    with pytest.raises(ValueError) as refused:
        parse(text)
    assert told in str(refused.value)


def test_six_fields_begin_with_seconds() -> None:
    moments = parse("*/20 59 23 * * *").moments(ZoneInfo("UTC"), after=0)
    assert list(islice(moments, 4)) == [86_340, 86_360, 86_380, 172_740]


def test_a_day_that_never_comes_ends_the_search() -> None:
    assert list(parse("0 0 30 2 *").moments(ZoneInfo("UTC"), after=0)) == []
    leap = datetime(2096, 3, 1, tzinfo=UTC)  # 2100 has no 29 February
    found = next(parse("0 0 29 2 *").moments(ZoneInfo("UTC"), after=int(leap.timestamp())))
    assert datetime.fromtimestamp(found, UTC).year == 2104
    weekend = next(parse("0 0 29 2 */6").moments(ZoneInfo("UTC"), after=1_983_000_000))
    assert datetime.fromtimestamp(weekend, UTC).year == 2048


@pytest.mark.parametrize("text", ["0 0 29 2 */6", "0 0 30 2 *"])
def test_what_hardly_ever_comes_is_found_without_a_walk_through_all_days(text: str) -> None:
    began = time.process_time()
    list(islice(parse(text).moments(ZoneInfo("Europe/Berlin"), after=1_790_000_000), 100))
    assert time.process_time() - began < 1, "1,400 years of days took seven seconds"
