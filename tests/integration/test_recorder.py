"""The recorder writes what the events tell: every run, every attempt, once, in both databases."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from redis import Redis
from sqlalchemy import Engine, RowMapping, select

from jobserver import JobServer, Queue
from jobserver.broker import Broker, keys
from jobserver.ledger.models import attempts, runs
from jobserver.recorder import Recorder
from tests.hands import Hand, request_of

Q = Queue("q", executor="thread")
CLOCKS = 0.1  # seconds: a script reads the server's clock a moment before it writes the event


@pytest.fixture
def hand(broker: Broker) -> Hand:
    return Hand(broker, [Q])


@pytest.fixture
def recorder(server: JobServer, engine: Engine) -> Iterator[Recorder]:
    """A recorder of the test app's events in the database."""
    recorder = Recorder(server, engine)
    yield recorder
    recorder.close()


def rows(engine: Engine, table: Any, **wanted: object) -> Sequence[RowMapping]:
    """Return a table's rows in the order of its key."""
    query = select(table).filter_by(**wanted).order_by(*table.primary_key)
    with engine.connect() as connection:
        return connection.execute(query).mappings().all()


def test_a_run_that_ends_at_its_first_attempt_is_one_row(
    recorder: Recorder, engine: Engine, broker: Broker, redis: Redis, hand: Hand
) -> None:
    broker.enqueue(
        [
            request_of(
                "a", run="r1", key="k", owner="me", queue="q:high", payload='{"organizationId":7}'
            )
        ]
    )
    redis.hset(keys.worker(hand.name), "hostname", "far")
    claim = hand.take()
    hand.end(claim, value='{"sent":1}')
    assert recorder.work() == 3
    (row,) = rows(engine, runs)
    job = broker.fetch("a")
    assert job.started_at and job.ended_at and job.created_at
    assert row["ended_at"].timestamp() == pytest.approx(job.ended_at.timestamp(), abs=CLOCKS)
    assert row["started_at"].timestamp() == pytest.approx(job.started_at.timestamp(), abs=CLOCKS)
    assert row["enqueued_at"].timestamp() == pytest.approx(job.created_at.timestamp(), abs=CLOCKS)
    assert 0 <= row["wait_ms"] < 5000 and 0 <= row["run_ms"] < 5000
    times = {"enqueued_at", "started_at", "ended_at", "wait_ms", "run_ms"}
    assert {name: row[name] for name in row if row[name] is not None and name not in times} == {
        "run": "r1",
        "job": "a",
        "type": "test.it",
        "queue": "q",
        "priority": "high",
        "key": "k",
        "owner": "me",
        "organization": "7",
        "state": "completed",
        "attempt": 1,
        "attempts": 3,
        "worker": hand.name,
        "host": "far",
        "result": '{"sent":1}',
        "payload": '{"organizationId":7}',
    }
    assert rows(engine, attempts) == []


def live(broker: Broker, redis: Redis, hand: Hand, recorded: Any) -> None:
    """Lead one run through all that can happen to it; call `recorded` after each step."""
    broker.enqueue([request_of("a", run="r1", due="+9000")])
    recorded()
    redis.zadd("rq:scheduled:q", {"a": 1})
    broker.promote([Q])
    recorded()
    claim = hand.take()
    recorded()
    broker.progress("a", claim.exec, percent=50, message="half")
    recorded()
    hand.end(claim, "retry", delay=0)
    recorded()
    hand.end(hand.take(), "snooze", delay=60, reason="busy")
    recorded()
    redis.zadd("rq:scheduled:q", {"a": 1})
    broker.promote([Q])
    hand.end(hand.take(), "release", reason="shut down")
    recorded()
    redis.zadd(keys.LEASES, {hand.take().entry: 1})
    broker.recover([Q], interval=5, lease=15)
    recorded()
    hand.end(hand.take(), "failed", reason="no use")
    recorded()
    broker.retry(["a"], attempts=2)
    recorded()
    broker.cancel("a", retention=Q.retention)
    recorded()
    broker.retry(["a"], attempts=2)
    claim = hand.take()
    recorded()
    broker.cancel("a", retention=Q.retention)
    hand.end(claim, "canceled")
    recorded()
    broker.retry(["a"], attempts=2)
    hand.end(hand.take(), value=7)


@pytest.mark.parametrize("batches", ["one", "many"])
def test_every_spent_attempt_is_a_row_however_the_events_are_cut(
    recorder: Recorder, engine: Engine, broker: Broker, redis: Redis, hand: Hand, batches: str
) -> None:
    live(broker, redis, hand, recorder.work if batches == "many" else lambda: None)
    recorder.work()
    found = rows(engine, attempts)
    assert [(row["number"], row["outcome"], row["reason"]) for row in found] == [
        (1, "retried", "error"),
        (2, "lost", "worker lost"),
        (3, "failed", "no use"),
        (4, "canceled", None),
        (5, "completed", None),
    ]
    assert all(row["run"] == "r1" and row["worker"] == hand.name for row in found)
    (run,) = rows(engine, runs)
    assert (run["state"], run["attempt"], run["result"]) == ("completed", 5, "7")
    assert (run["error_type"], run["reason"], run["due_at"]) == (None, None, None)
    assert run["started_at"] == found[-1]["started_at"]


def test_each_state_is_recorded_as_redis_has_it(
    recorder: Recorder, engine: Engine, broker: Broker, redis: Redis, hand: Hand
) -> None:
    def agree() -> None:
        recorder.work()
        (run,), job = rows(engine, runs), broker.fetch("a")
        assert (run["state"], run["attempt"]) == (job.status, job.attempt)
        assert run["attempts"] == job.attempts
        for mine, its in (("started_at", job.started_at), ("ended_at", job.ended_at)):
            if run[mine] is not None:
                assert its is not None
                assert run[mine].timestamp() == pytest.approx(its.timestamp(), abs=CLOCKS)
        if job.is_ended:
            assert run["error_type"] == job.error_type
        if job.status == "delayed":
            assert run["due_at"] == job.due_at

    live(broker, redis, hand, agree)
    agree()
