"""Finish: a run ends once, by the worker that holds it, and leaves nothing behind."""

from __future__ import annotations

from typing import Any

import pytest
from redis import Redis
from rq.job import Job as RQJob
from rq.serializers import JSONSerializer

from jobserver import Queue, Retention
from jobserver.broker import Broker, Ending, keys
from jobserver.broker.job import packed_value, traceback_text
from tests.hands import Hand, events, hash_of, places, request_of, story, traces

Q = Queue("q", executor="thread")


@pytest.fixture
def hand(broker: Broker) -> Hand:
    return Hand(broker, [Q])


def is_clear_of(redis: Redis, hand: Hand) -> bool:
    """Whether nothing of any execution is left."""
    return not (
        redis.exists(keys.LEASES)
        or redis.keys("rq:wip:*")
        or redis.keys("rq:execution*")
        or redis.exists(keys.HELD, f"rq:worker:{hand.name}:executions")
    )


def test_a_completed_run_leaves_its_result(broker: Broker, redis: Redis, hand: Hand) -> None:
    broker.enqueue([request_of("job-1")])
    assert hand.end(hand.take(), value='{"n":1}') == "ok"
    found = broker.fetch("job-1")
    assert (found.status, found.progress, found.result) == ("completed", 100, {"n": 1})
    assert found.ended_at is not None
    assert found.started_at is not None
    assert found.ended_at >= found.started_at
    assert places(redis, "job-1") == ["finished:q"]
    assert traces(redis, "job-1") == ["rq:results:job-1"]
    assert is_clear_of(redis, hand)
    told = events(redis, "job-1")[-1]
    assert (told["event"], told["attempt"], told["worker"]) == ("completed", "1", hand.name)
    assert int(told["ms"]) >= 0


def test_a_failed_run_leaves_its_error(broker: Broker, redis: Redis, hand: Hand) -> None:
    broker.enqueue([request_of("job-1")])
    hand.end(hand.take(), "failed", error_type="KeyError", error_message="ä\udcff", reason="r")
    found = broker.fetch("job-1")
    assert (found.status, found.error_type, found.error_message) == (
        "failed",
        "KeyError",
        "ä\\udcff",
    )
    assert (found.result, places(redis, "job-1")) == (None, ["failed:q"])
    ((_, entry),) = redis.xrange(keys.results("job-1"))
    assert traceback_text(entry) == "Traceback: it failed"
    assert is_clear_of(redis, hand)
    told = events(redis, "job-1")[-1]
    assert (told["event"], told["reason"], told["retry_at"]) == ("failed", "r", "")


def test_a_retry_waits_and_keeps_each_attempts_history(
    broker: Broker, redis: Redis, hand: Hand
) -> None:
    broker.enqueue([request_of("a", queue="q:high"), request_of("b", queue="q:high")])
    claim = hand.take()
    assert hand.end(claim, "retry", delay=60) == "ok"
    assert places(redis, "a") == ["scheduled:q:high"]
    found = broker.fetch("a")
    assert (found.status, found.attempt, found.error_type) == ("delayed", 1, "ValueError")
    assert found.due_at is not None
    assert found.started_at is not None
    assert 59 <= (found.due_at - found.started_at).total_seconds() <= 62
    told = events(redis, "a")[-1]
    assert (told["event"], int(told["retry_at"])) == ("failed", found.due_at.timestamp() * 1000)
    assert hand.take().id == "b"
    redis.zadd("rq:scheduled:q:high", {"a": 1})
    assert broker.promote([Q]) == (1, None)
    claim = hand.take()
    assert (claim.id, claim.attempt) == ("a", 2)
    hand.end(claim, "retry", delay=0)
    assert places(redis, "a") == ["queue:q:high"], "no wait: behind the others of its priority"
    assert broker.fetch("a").due_at is None
    claim = hand.take()
    hand.end(claim, value=1)
    assert broker.fetch("a").error_type is None
    kinds = [fields[b"type"] for _, fields in redis.xrange(keys.results("a"))]
    assert kinds == [b"2", b"2", b"1"]
    assert story(redis, "a") == [
        *("queued", "claimed", "failed", "queued", "claimed", "failed", "claimed", "completed")
    ]


def test_a_retry_without_a_wait_is_put_behind_the_others(broker: Broker, hand: Hand) -> None:
    broker.enqueue([request_of("a"), request_of("b")])
    hand.end(hand.take(), "retry", delay=0)
    assert [hand.take().id, hand.take().id] == ["b", "a"]


def test_a_snooze_spends_no_attempt(broker: Broker, redis: Redis, hand: Hand) -> None:
    broker.enqueue([request_of("a", attempts=1)])
    for _ in range(3):
        claim = hand.take()
        assert (claim.attempt, claim.attempts) == (1, 1)
        assert hand.end(claim, "snooze", delay=60, reason="busy") == "ok"
        assert places(redis, "a") == ["scheduled:q"]
        assert broker.fetch("a").attempt == 0
        told = events(redis, "a")[-1]
        assert (told["event"], told["reason"]) == ("delayed", "busy")
        assert int(told["due"]) == redis.zscore("rq:scheduled:q", "a") * 1000  # type: ignore[operator]
        redis.zadd("rq:scheduled:q", {"a": 1})
        broker.promote([Q])
    assert not redis.exists(keys.results("a"))
    assert is_clear_of(redis, hand)


def test_a_released_run_is_next_and_spends_no_attempt(
    broker: Broker, redis: Redis, hand: Hand
) -> None:
    broker.enqueue([request_of("a", attempts=1), request_of("b")])
    assert hand.end(hand.take(), "release", reason="worker shut down") == "ok"
    assert broker.fetch("a").attempt == 0
    assert is_clear_of(redis, hand)
    claim = hand.take()
    assert (claim.id, claim.attempt) == ("a", 1)
    assert story(redis, "a") == ["queued", "claimed", "queued", "claimed"]
    assert events(redis, "a")[2]["reason"] == "worker shut down"


@pytest.mark.parametrize("word", ["completed", "failed", "retry", "snooze", "release", "canceled"])
def test_an_end_handed_in_twice_counts_once(
    broker: Broker, redis: Redis, hand: Hand, word: Any
) -> None:
    broker.enqueue([request_of("a")])
    claim = hand.take()
    assert hand.end(claim, word, delay=60) == "ok"
    before, told = hash_of(redis, "a"), events(redis)
    assert hand.end(claim, word, delay=60) == "recorded"
    assert hand.end(claim, "completed") == "recorded"
    assert (hash_of(redis, "a"), events(redis)) == (before, told)
    assert is_clear_of(redis, hand)


@pytest.mark.parametrize("word", ["completed", "failed", "retry", "snooze", "release", "canceled"])
def test_a_run_that_was_taken_over_cannot_end_any_more(
    broker: Broker, redis: Redis, hand: Hand, word: Any
) -> None:
    broker.enqueue([request_of("a")])
    claim = hand.take()
    redis.zadd(keys.LEASES, {claim.entry: 1})
    broker.recover([Q], interval=5, lease=15)
    assert hand.end(claim, word, delay=60) == "lost"
    assert places(redis, "a") == ["queue:q"]
    other = Hand(broker, [Q])
    now_held = other.take()
    before, told = hash_of(redis, "a"), events(redis)
    assert hand.end(claim, word, delay=60) == "lost"
    assert (hash_of(redis, "a"), events(redis)) == (before, told)
    assert places(redis, "a") == ["wip:q"]
    assert other.end(now_held, value=2) == "ok"
    assert hand.end(claim, word, delay=60) == "lost"
    assert broker.fetch("a").result == 2
    assert is_clear_of(redis, hand)
    assert is_clear_of(redis, other)


def test_a_run_whose_job_was_deleted_ends_without_a_trace(
    broker: Broker, redis: Redis, hand: Hand
) -> None:
    broker.enqueue([request_of("job-1"), request_of("job-2")])
    first, second = hand.claim(threads=2)
    redis.delete(keys.job("job-1"))
    RQJob.fetch("job-2", connection=redis, serializer=JSONSerializer).delete()
    assert hand.end(first) == hand.end(second) == "lost"
    assert traces(redis, "job-1") == traces(redis, "job-2") == []
    assert not redis.exists(keys.job("job-1"), keys.job("job-2"))
    assert is_clear_of(redis, hand)


def test_many_runs_end_in_one_call_each_by_itself(broker: Broker, redis: Redis, hand: Hand) -> None:
    broker.enqueue([request_of(f"job-{n}") for n in range(4)])
    claims = hand.claim(threads=4)
    hand.end(claims[2])
    redis.zadd(keys.LEASES, {claims[3].entry: 1})
    broker.recover([Q], interval=5, lease=15)
    endings = [
        (Ending(claim=claims[0], word="completed", value=packed_value(b"0")), Q.retention),
        (Ending(claim=claims[1], word="snooze", delay=5), Q.retention),
        (Ending(claim=claims[2], word="completed", value=packed_value(b"2")), Q.retention),
        (Ending(claim=claims[3], word="completed", value=packed_value(b"3")), Q.retention),
    ]
    words, _ = broker.exchange(hand.name, endings=endings)
    assert words == ["ok", "ok", "recorded", "lost"]
    assert places(redis, "job-3") == ["queue:q"]


def test_a_job_kept_for_no_time_is_gone_with_its_end(
    broker: Broker, redis: Redis, hand: Hand
) -> None:
    broker.enqueue([request_of("job-1")])
    assert hand.end(hand.take(), retention=Retention(completed_count=0)) == "ok"
    assert traces(redis, "job-1") == []
    assert not redis.exists(keys.job("job-1"))
    assert is_clear_of(redis, hand)


def test_progress_is_the_runs_own(broker: Broker, redis: Redis, hand: Hand) -> None:
    broker.enqueue([request_of("a")])
    claim = hand.take()
    assert broker.progress("a", claim.exec, percent=100 / 3, message="a third \udcff") == "ok"
    found = broker.fetch("a")
    assert (found.progress, found.message) == (33.3333, "a third \\udcff")
    assert broker.progress("a", claim.exec, percent=20, message="back?") == "ok"
    assert (broker.fetch("a").progress, broker.fetch("a").message) == (33.3333, "back?")
    assert broker.progress("a", "another", percent=99, message="") == "lost"
    broker.cancel("a", retention=Q.retention)
    assert broker.progress("a", claim.exec, percent=40, message="") == "canceled"
    hand.end(claim, "release")
    assert broker.progress("a", claim.exec, percent=50, message="") == "lost"
    assert broker.progress("gone", claim.exec, percent=50, message="") == "lost"
    assert [e["percent"] for e in events(redis) if e["event"] == "progress"] == [
        *("33.3333", "33.3333", "40")
    ]


def test_progress_starts_again_with_the_next_attempt(broker: Broker, hand: Hand) -> None:
    broker.enqueue([request_of("a")])
    claim = hand.take()
    broker.progress("a", claim.exec, percent=80, message="nearly")
    hand.end(claim, "retry", delay=0)
    claim = hand.take()
    assert (broker.fetch("a").progress, broker.fetch("a").message) == (0, "")
    broker.progress("a", claim.exec, percent=10, message="")
    assert broker.fetch("a").progress == 10


def test_a_long_result_stays_out_of_the_events(broker: Broker, redis: Redis, hand: Hand) -> None:
    broker.enqueue([request_of("a"), request_of("b", payload='{"x":"' + "y" * 5000 + '"}')])
    hand.end(hand.take(), value='"' + "x" * 5000 + '"')
    assert broker.fetch("a").result == "x" * 5000
    assert events(redis, "a")[-1]["result"] == ""
    assert events(redis, "b")[0]["payload"] == ""


def test_the_third_process_that_a_job_ends_makes_it_poison(
    broker: Broker, redis: Redis, hand: Hand
) -> None:
    broker.enqueue([request_of("a", attempts=20)])
    died = {"error_type": "ProcessDied", "error_message": "exit code 1", "reason": "exit code 1"}
    for word, more, answer in (
        ("retry", died, "ok"),
        ("retry", {}, "ok"),  # an error of Python's in between clears it not
        ("retry", died, "ok"),
        ("release", {}, "ok"),
        ("snooze", {}, "ok"),
        ("retry", died, "poison"),
    ):
        broker.promote([Q])
        assert hand.end(hand.take(), word, **more) == answer  # type: ignore[arg-type]
    found = broker.fetch("a")
    assert (found.status, found.error_type) == ("failed", "Poison")
    assert (found.error_message, found.attempts - found.attempt) == ("exit code 1", 16)
    assert events(redis, "a")[-1]["reason"] == "poison"
    assert broker.retry(["a"], attempts=20) == ["retried"]
    assert hand.end(hand.take(), "retry", **died) == "ok", "an operator's retry counts anew"  # type: ignore[arg-type]


def test_a_canceled_job_whose_process_died_is_canceled(
    broker: Broker, redis: Redis, hand: Hand
) -> None:
    broker.enqueue([request_of("a")])
    redis.hset(keys.job("a"), "crashes", 2)
    claim = hand.take()
    broker.cancel("a", retention=Q.retention)
    assert hand.end(claim, "retry", error_type="ProcessDied") == "canceled"
    assert broker.fetch("a").status == "canceled"
