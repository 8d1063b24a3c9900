"""An exchange: ends and a claim in one call, neither of which takes the other with it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import ResponseError

from jobserver import Queue, Retention
from jobserver.broker import Broker, Ending, Share, keys
from jobserver.broker.broker import available
from jobserver.broker.connection import connect
from jobserver.broker.exchange import exchange_call, read_exchange, wanted
from jobserver.broker.job import packed_traceback, packed_value
from jobserver.errors import RedisUnavailable
from tests.hands import Hand, hash_of, places, request_of

Q = Queue("q", executor="thread")


@pytest.fixture
def hand(broker: Broker) -> Hand:
    return Hand(broker, [Q])


@pytest.fixture
def full(redis: Redis) -> Iterator[Redis]:
    """A server to be made full; it has room again after the test."""
    yield redis
    redis.config_set("maxmemory", "0")


def say(broker: Broker, hand: Hand, *endings: Ending, queue: Queue = Q) -> Any:
    """Hand ends in and ask for three more runs."""
    hand.request += 1
    wish = wanted(
        request=hand.request,
        token=f"{hand.name}-",
        lease=15,
        processes=0,
        threads=3,
        shares=[Share(queue=queue, quota=3, room=3)],
    )
    handed = [(ending, Q.retention) for ending in endings]
    name, arguments = exchange_call(hand.name, endings=handed, claim=wish)
    return read_exchange(broker.run_script(name, *arguments))


def completed(claim: Any) -> Ending:
    return Ending(claim=claim, word="completed", value=packed_value(b"1"))


def test_ends_of_all_kinds_and_a_claim_travel_together(
    broker: Broker, redis: Redis, hand: Hand
) -> None:
    broker.enqueue([request_of(f"job-{n}", attempts=3) for n in range(5)])
    first, second, third = hand.claim(threads=3)
    retry = Ending(
        claim=second,
        word="retry",
        value=packed_traceback("Traceback"),
        delay=7,
        error_type="ValueError",
        error_message="no",
        reason="error",
    )
    snooze = Ending(claim=third, word="snooze", delay=9, reason="snoozed")
    words, claims, error = say(broker, hand, completed(first), retry, snooze)
    assert (words, error) == (["ok", "ok", "ok"], None)
    assert [claim.id for claim in claims] == ["job-3", "job-4"]
    assert [(claim.attempt, claim.attempts) for claim in claims] == [(1, 3), (1, 3)]
    assert places(redis, "job-0") == ["finished:q"]
    assert places(redis, "job-1") == places(redis, "job-2") == ["scheduled:q"]
    assert hash_of(redis, "job-1")["error_message"] == "no"
    assert hash_of(redis, "job-2")["attempt"] == "0"


def test_what_ends_makes_room_for_the_next(broker: Broker, hand: Hand) -> None:
    queue = Queue("q", executor="thread", global_concurrency=1)
    broker.enqueue([request_of("a"), request_of("b")])
    hand.queues = [queue]
    (claim,) = hand.claim(threads=3)
    assert say(broker, hand, queue=queue)[1] == []
    assert [c.id for c in say(broker, hand, completed(claim), queue=queue)[1]] == ["b"]


def test_the_last_ten_attempts_are_kept(broker: Broker, redis: Redis, hand: Hand) -> None:
    broker.enqueue([request_of("a", attempts=20)])
    for attempt in range(1, 13):
        assert hand.end(hand.take(), "retry", delay=0) == "ok"
        assert redis.xlen(keys.results("a")) == min(10, attempt)


def test_a_full_server_records_ends_and_hands_nothing_out(
    broker: Broker, full: Redis, hand: Hand
) -> None:
    broker.enqueue([request_of("a"), request_of("b")])
    claim = hand.take()
    full.config_set("maxmemory", "1")
    words, claims, error = say(broker, hand, completed(claim))
    assert (words, claims) == (["ok"], [])
    with pytest.raises(RedisUnavailable, match="takes no writes"), available():
        raise error
    assert (places(full, "a"), places(full, "b")) == (["finished:q"], ["queue:q"])
    full.config_set("maxmemory", "0")
    assert [claim.id for claim in say(broker, hand)[1]] == ["b"]


def test_a_claim_that_fails_takes_no_end_back(broker: Broker, redis: Redis, hand: Hand) -> None:
    broker.enqueue([request_of("a"), request_of("b")])
    claim = hand.take()
    redis.set("jobserver:paused", "no hash")
    words, claims, error = say(broker, hand, completed(claim))
    assert (words, claims) == (["ok"], [])
    assert isinstance(error, ResponseError)
    assert "WRONGTYPE" in str(error)
    assert places(redis, "a") == ["finished:q"]
    assert not redis.exists(keys.LEASES, keys.HELD)
    redis.delete("jobserver:paused")
    assert [claim.id for claim in say(broker, hand)[1]] == ["b"]


def test_each_queue_keeps_by_its_own_retention(broker: Broker, redis: Redis) -> None:
    none, many = Queue("none", retention=Retention(completed_count=0)), Queue("many")
    hand = Hand(broker, [none, many])
    for queue in (none, many):
        broker.enqueue([request_of(f"{queue.name}-{n}", queue=queue.name) for n in range(2)])
    claims = hand.claim(processes=4)
    queues = {"none": none, "many": many}
    endings = [(completed(c), queues[c.origin].retention) for c in claims]
    assert broker.exchange(hand.name, endings=endings) == (["ok"] * 4, [])
    counts = broker.counts([none, many])
    assert (counts["none"]["completed"], counts["many"]["completed"]) == (0, 2)


def test_of_many_that_are_kept_one_in_a_hundred_may_be_too_many(broker: Broker) -> None:
    kept = Retention(completed_count=300)
    hand = Hand(broker, [Q])
    most = 0
    for start in range(0, 420, 7):
        broker.enqueue([request_of(f"job-{n}") for n in range(start, start + 7)])
        for claim in hand.claim(threads=7):
            hand.end(claim, retention=kept)
            if start >= 294:
                most = max(most, broker.counts([Q])["q"]["completed"])
    assert 300 <= most <= 303


def test_what_a_full_server_has_handed_out_it_hands_out_again(
    broker: Broker, full: Redis, hand: Hand
) -> None:
    broker.enqueue([request_of("a"), request_of("b")])
    (claim,) = hand.claim(threads=1)
    full.config_set("maxmemory", "1")
    assert [found.exec for found in hand.claim(threads=1, repeat=True)] == [claim.exec]
    with pytest.raises(RedisUnavailable):
        hand.claim(threads=1)


def test_ends_that_are_followed_by_a_rerun_keep_no_others_from_being_trimmed(
    broker: Broker, hand: Hand
) -> None:
    kept = Retention(completed_count=200)
    broker.enqueue([request_of("again", when_active="rerun")])
    for n in range(202):
        (claim,) = hand.claim(threads=1)
        broker.enqueue([request_of(f"job-{n}")])
        broker.enqueue([request_of("again", payload=str(n), when_active="rerun")])
        assert hand.end(claim, retention=kept) == "ok"
        assert hand.end(hand.take(), retention=kept) == "ok"
    assert broker.counts([Q])["q"]["completed"] <= 202


def test_a_count_that_is_lowered_is_reached(broker: Broker, redis: Redis, hand: Hand) -> None:
    redis.zadd("rq:finished:q", {f"old-{n}": n for n in range(1500)})
    for n in range(40):
        broker.enqueue([request_of(f"job-{n}")])
        hand.end(hand.take(), retention=Retention(completed_count=1000))
    assert broker.counts([Q])["q"]["completed"] <= 1010


@pytest.mark.parametrize("attempt", ["", "x"])
def test_an_attempt_that_is_no_number_counts_as_none(
    broker: Broker, redis: Redis, hand: Hand, attempt: str
) -> None:
    broker.enqueue([request_of("a"), request_of("b")])
    redis.hset(keys.job("a"), "attempt", attempt)
    assert [claim.attempt for claim in hand.claim(threads=2)] == [1, 1]


@pytest.mark.parametrize("way", ["progress", "snooze"])
def test_events_of_what_is_never_counted_are_bounded_too(
    redis: Redis, valkey: str, way: str
) -> None:
    broker = Broker(connect(valkey), events_max_mib=0)  # a thousand at least
    hand = Hand(broker, [Q])
    broker.enqueue([request_of("a")])
    for _ in range(700):
        claim = hand.take()
        for percent in range(2):
            broker.progress(claim.id, claim.exec, percent=percent, message="on")
        if way == "snooze":
            assert hand.end(claim, "snooze", delay=0) == "ok"
            broker.promote([Q])
        else:
            hand.end(claim, "release")
    assert redis.xlen(keys.EVENTS) <= 1200
    broker.connection.close()
