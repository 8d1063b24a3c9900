"""A recurring entry's ticks: whenever a scheduler looks, each is made once or given up once."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import islice, takewhile
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobserver.broker.entry import COUNTED, MADE, Entry, Misfire

BEGIN = 1_700_000_000  # Unix seconds


def entry(**changed: Any) -> Entry:
    return Entry(**{"id": "a", "type": "a", "payload": {}, **changed})


def at(seconds: float) -> datetime:
    return datetime.fromtimestamp(BEGIN + seconds, tz=UTC)


timings = st.one_of(
    st.builds(lambda seconds: {"seconds": seconds}, st.sampled_from([1, 1.5, 7, 60, 86_400])),
    st.builds(
        lambda cron, zone: {"cron": cron, "timezone": zone},
        st.sampled_from(["* * * * *", "*/15 8-17 * * mon-fri", "30 2 * * *", "*/7 * * * * *"]),
        st.sampled_from(["UTC", "Europe/Berlin"]),
    ),
)
entries = st.builds(
    lambda timing, misfire, limit, grace, jitter, end: entry(
        **timing, misfire=misfire, limit=limit, grace=grace, jitter=jitter, end=end
    ),
    timings,
    st.sampled_from(get_args(Misfire)),
    st.integers(1, 1000),
    st.integers(1, 600),
    st.sampled_from([0, 0, 0.9]),
    st.none() | st.integers(1, 40_000).map(at),
)


@given(entry=entries, waits=st.lists(st.integers(-5_000, 20_000_000), max_size=8))
def test_each_tick_is_made_or_given_up_once_whenever_it_is_looked_at(
    entry: Entry, waits: list[int]
) -> None:
    tick = first = entry.first(after=BEGIN * 1000)
    now, made, missed = BEGIN * 1000, [], 0
    for wait in waits:  # some are steps of the clock back
        now += wait
        while tick is not None and entry.due(tick) <= now:
            for step in entry.steps(tick, now=now):
                assert step.stands == tick
                missed += step.missed
                made += [] if step.fires is None else [step.fires]
                assert step.following is None or step.following > step.stands
                tick = step.following
    assert made == sorted(set(made))
    gone = takewhile(lambda one: tick is None or one < tick, entry.ticks(after=BEGIN * 1000))
    gone = set() if first is None else set(gone)
    assert set(made) <= gone
    assert len(made) + missed == len(gone)
    if entry.misfire == "once" and gone:
        assert made  # whatever is missed, the last of it is made up for


@given(entry=entries, passed=st.integers(0, 200_000))
def test_the_policy_says_which_of_the_missed_ticks_are_made(entry: Entry, passed: int) -> None:
    tick = entry.first(after=BEGIN * 1000)
    if tick is None:
        return
    now = entry.due(tick) + passed
    ticks = list(takewhile(lambda one: entry.due(one) <= now, entry.ticks(after=BEGIN * 1000)))
    made = [step.fires for step in entry.steps(tick, now=now) if step.fires]
    if entry.misfire == "all":
        assert made == ticks[-entry.limit :][:MADE]
    elif entry.misfire == "skip" and now - entry.due(ticks[-1]) > entry.grace * 1000:
        assert made == []
    else:
        assert made == ticks[-1:]


def test_a_long_outage_is_counted_in_several_looks() -> None:
    every = entry(seconds=1, misfire="once")
    tick, now, missed, looks = BEGIN * 1000, (BEGIN + 3 * COUNTED) * 1000, 0, 0
    while tick <= now:
        *_, step = every.steps(tick, now=now)
        assert step.following is not None
        tick, missed, looks = step.following, missed + step.missed, looks + 1
    assert missed == 3 * COUNTED  # and one was made, of the 30,001
    assert looks == 4


def test_jitter_differs_by_tick_and_is_the_same_for_all_schedulers() -> None:
    one, other = entry(seconds=60, jitter=30), entry(seconds=60, jitter=30)
    ticks = list(islice(one.ticks(after=BEGIN * 1000), 50))
    late = [one.due(tick) - tick for tick in ticks]
    assert late == [other.due(tick) - tick for tick in ticks]
    assert all(0 <= delay <= 30_000 for delay in late)
    assert len(set(late)) > 40
    assert one.tick_id(ticks[0]) == f"a-{ticks[0] // 1000}"  # named by its time, not by its jitter


def test_an_interval_counts_from_its_start() -> None:
    hourly = entry(seconds=3600, start=at(100.5), end=at(100.5 + 3 * 3600))
    ticks = [tick / 1000 - BEGIN for tick in hourly.ticks(after=0)]
    assert ticks == [100.5, 3700.5, 7300.5]
    assert hourly.tick_id(BEGIN * 1000 + 100_500) == f"a-{BEGIN + 100}_500"


@pytest.mark.parametrize(
    "text", ["[]", "null", "7", '{"id":"a"}', '{"id":"a","type":"b","payload":{},"start":5}', "{"]
)
def test_what_is_no_entry_of_this_release_is_said_to_be_none(text: str) -> None:
    with pytest.raises(ValueError):
        Entry.from_json(text.encode())
