"""How queues did, minute by minute: counted in SQL on both databases."""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Literal

import pytest
from sqlalchemy import Engine, func, insert, select

from jobserver import JobServer, Queue
from jobserver.broker import Broker, keys
from jobserver.histogram import bucket_of
from jobserver.ledger import models, series
from jobserver.ledger.series import End, Point
from jobserver.recorder import Recorder
from tests.hands import Hand, request_of

Q = Queue("q", executor="thread")
NOON = datetime(2026, 3, 29, 12, tzinfo=UTC)


def ended(
    queue: str = "q",
    *,
    at: datetime = NOON,
    state: Literal["completed", "failed"] = "completed",
    wait_ms: int | None = 30,
    run_ms: int | None = 40,
) -> End:
    """Return the end of a run."""
    return End(queue, state, round(at.timestamp() * 1000), wait_ms, run_ms)


def add(engine: Engine, *ends: End) -> None:
    with engine.begin() as connection:
        series.add(connection, ends)


def points(engine: Engine, queue: str = "q", *, minutes: int = 3) -> Sequence[Point]:
    """Return the minutes up to noon."""
    return series.points(engine, queue, minutes=minutes, now=NOON + timedelta(seconds=30))


def test_runs_are_counted_in_the_minute_in_which_they_ended(engine: Engine) -> None:
    add(
        engine,
        ended(at=NOON - timedelta(seconds=61), state="failed", run_ms=None),
        ended(at=NOON + timedelta(seconds=59), wait_ms=1500),
        ended(),
    )
    add(engine, ended(run_ms=7000), ended("other"), ended(at=NOON - timedelta(minutes=3)))
    first, second, last = points(engine)
    assert [point.at for point in (first, second, last)] == [
        NOON - timedelta(minutes=2),
        NOON - timedelta(minutes=1),
        NOON,
    ]
    assert (first.completed, first.failed, first.run.count) == (0, 1, 1)
    assert (second.completed, second.failed) == (0, 0)
    assert second.run.quantile(0.5) is None
    assert (last.completed, last.failed, last.wait.count, last.run.count) == (3, 0, 3, 3)
    assert last.wait.seconds == pytest.approx(1.56)
    assert last.wait.counts[bucket_of(1.5)] == 1
    assert last.run.counts[bucket_of(7)] == 1


def test_what_never_started_ended_too_but_waited_no_known_time(engine: Engine) -> None:
    add(engine, ended(state="failed", wait_ms=None, run_ms=None))
    (point,) = points(engine, minutes=1)
    assert (point.completed, point.failed, point.wait.count, point.run.count) == (0, 1, 0, 1)


def test_in_any_batches_the_counts_of_all_time_are_the_same(engine: Engine) -> None:
    draw = random.Random(5)  # noqa: S311 (no secret)
    runs = [
        ended(
            draw.choice(["q", "r"]),
            at=NOON + timedelta(seconds=draw.uniform(-9999, 0)),
            state="completed" if draw.random() < 0.7 else "failed",
            wait_ms=draw.randrange(10**7),
            run_ms=draw.randrange(10**5),
        )
        for _ in range(300)
    ]
    rest = list(runs)
    while rest:
        size = draw.randint(1, 40)
        add(engine, *rest[:size])
        del rest[:size]
    _, found = series.ever(engine)
    for queue in ("q", "r"):
        own = [run for run in runs if run.queue == queue]
        assert found[queue, "wait"].seconds == pytest.approx(sum(run.wait_ms for run in own) / 1000)
        for what in ("completed", "failed"):
            lengths = [run.run_ms for run in own if run.state == what]
            counted = [0] * len(found[queue, what].counts)
            for ms in lengths:
                counted[bucket_of(ms / 1000)] += 1
            assert list(found[queue, what].counts) == counted


def test_counts_of_all_time_say_up_to_which_event_they_count(engine: Engine) -> None:
    assert series.ever(engine) == (None, {})
    with engine.begin() as connection:
        series.add(connection, [ended()])
        connection.execute(
            insert(models.position).values(id=1, position="5-1", events=1, recorded_at=NOON)
        )
    position, found = series.ever(engine)
    assert position == "5-1"
    assert set(found) == {("q", "completed"), ("q", "wait")}


def test_minutes_are_forgotten_after_two_days_and_counts_of_all_time_never(engine: Engine) -> None:
    add(engine, *(ended(at=NOON - timedelta(hours=hours)) for hours in range(0, 60, 4)))
    add(engine, ended(at=NOON - timedelta(hours=48) + timedelta(minutes=1)))
    with engine.connect() as connection:
        before = connection.scalar(select(func.count()).select_from(models.series)) or 0
    _, ever = series.ever(engine)
    assert series.prune(engine, now=NOON) == 2 * 3  # of 48, 52 and 56 hours ago
    assert series.prune(engine, now=NOON) == 0
    with engine.connect() as connection:
        assert connection.scalar(select(func.count()).select_from(models.series)) == before - 6
    assert series.ever(engine)[1] == ever
    assert sum(point.completed for point in points(engine, minutes=series.KEPT_MINUTES)) == 13


def test_nothing_is_written_where_nothing_is_counted(engine: Engine) -> None:
    add(engine)
    with engine.connect() as connection:
        assert connection.scalar(select(func.count()).select_from(models.series)) == 0


def test_the_recorder_counts_every_end_once(
    server: JobServer, engine: Engine, broker: Broker
) -> None:
    hand = Hand(broker, [Q])
    recorders = [Recorder(server, engine), Recorder(server, engine)]
    broker.enqueue([request_of("a"), request_of("b"), request_of("c")])
    hand.end(hand.take(), "failed")
    hand.end(hand.take(), "retry")
    hand.end(hand.take(), "canceled")
    hand.end(hand.take())
    recorders[0].work()
    recorders[1].work()
    assert broker.retry(["a"], attempts=1) == ["retried"]
    hand.end(hand.take(), "failed")
    assert broker.retry(["a"], attempts=1) == ["retried"]
    hand.end(hand.take())
    recorders[1].work()
    recorders[0].work()
    position, found = series.ever(engine)
    assert position == broker.connection.xinfo_stream(keys.EVENTS)["last-generated-id"].decode()
    counted = {what: histogram.count for (_, what), histogram in found.items()}
    assert counted == {"completed": 2, "failed": 2, "wait": 4}
    for recorder in recorders:
        recorder.close()
