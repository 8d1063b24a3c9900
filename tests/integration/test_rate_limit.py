"""RateLimited: the job comes back unspent, and no other job of its rate key starts until then."""

from __future__ import annotations

import pytest
from redis import Redis

from jobserver import JobServer, Queue, errors
from jobserver.broker import Broker, keys
from jobserver.testing import work
from tests.engine_jobs import journal
from tests.hands import Hand, events, hash_of, places, request_of, story

Q = Queue("q", executor="thread")
LIMIT = f"{keys.OURS}limit:"


@pytest.fixture
def hand(broker: Broker) -> Hand:
    return Hand(broker, [Q])


def enqueue(broker: Broker, *names: str, limit_key: str = "shop-1", **more: str) -> None:
    broker.enqueue([request_of(name, limit_key=limit_key, **more) for name in names])


def ids(claims: list) -> list[str]:
    return [claim.id for claim in claims]


def pass_time(redis: Redis, name: str = "shop-1") -> None:
    """Let the hold of a rate key be over, and what it put off be due, in its order."""
    redis.delete(LIMIT + name)
    for origin in Q.origins:
        for job_id, score in redis.zrange(f"rq:scheduled:{origin}", 0, -1, withscores=True):
            redis.zadd(f"rq:scheduled:{origin}", {job_id: score - 10**9})


def test_a_rate_limited_job_comes_back_and_its_key_is_held_back(
    broker: Broker, redis: Redis, hand: Hand
) -> None:
    enqueue(broker, "a", "b")
    enqueue(broker, "other", limit_key="shop-2")
    enqueue(broker, "free", limit_key="")
    first = hand.take()
    assert hand.end(first, "limited", delay=60, reason="rate limited") == "ok"
    seconds, _ = redis.time()
    assert ids(hand.claim(threads=5)) == ["other", "free"]
    for name in ("a", "b"):
        assert places(redis, name) == ["scheduled:q"]
        job = broker.fetch(name)
        assert (job.status, job.attempt) == ("delayed", 0)
        assert job.due_at is not None
        assert abs(job.due_at.timestamp() - seconds - 60) < 2
    assert story(redis, "b") == ["queued", "delayed"]
    put_off = events(redis, "b")[-1]
    assert (put_off["reason"], put_off["limit"], put_off["run"]) == (
        *("rate limited", "shop-1", hash_of(redis, "b")["run"]),
    )
    assert 0 < redis.pttl(LIMIT + "shop-1") <= 60_000

    pass_time(redis)
    assert broker.promote([Q])[0] == 2
    again = hand.claim(threads=5)
    assert ids(again) == ["a", "b"]
    assert [claim.attempt for claim in again] == [1, 1]


def test_jobs_of_a_held_key_keep_their_order_and_priority(
    broker: Broker, redis: Redis, hand: Hand
) -> None:
    names = [f"job-{number * 7919 % 100}" for number in range(30)]
    enqueue(broker, "first", *names)
    enqueue(broker, "urgent", origin="q:high")
    urgent, first = hand.claim(threads=2)
    hand.end(first, "limited", delay=60)
    hand.end(urgent, "limited", delay=60)
    assert hand.claim(threads=3) == []
    assert redis.zcard("rq:scheduled:q") == 31
    pass_time(redis)
    broker.promote([Q])
    assert ids(hand.claim(threads=50)) == ["urgent", "first", *names]


def test_a_key_may_be_named_by_the_job_and_the_longer_hold_stays(
    broker: Broker, redis: Redis, hand: Hand
) -> None:
    enqueue(broker, "a", limit_key="")
    hand.end(hand.take(), "limited", value="shop-1", delay=3600)
    enqueue(broker, "b", limit_key="shop-2")
    hand.end(hand.take(), "limited", value="shop-1", delay=1)
    assert redis.pttl(LIMIT + "shop-1") > 3_000_000
    assert not redis.exists(LIMIT + "shop-2")
    enqueue(broker, "c")
    assert hand.claim() == []
    assert places(redis, "c") == ["scheduled:q"]


def test_without_any_key_it_is_a_snooze(broker: Broker, redis: Redis, hand: Hand) -> None:
    enqueue(broker, "a", "b", limit_key="")
    hand.end(hand.take(), "limited", delay=60)
    assert redis.keys(LIMIT + "*") == []
    assert ids(hand.claim()) == ["b"]


def test_a_canceled_run_holds_its_key_back_and_does_not_return(
    broker: Broker, redis: Redis, hand: Hand
) -> None:
    enqueue(broker, "a", "b")
    first = hand.take()
    broker.cancel("a", retention=Q.retention)
    hand.end(first, "limited", delay=60)
    assert broker.fetch("a").status == "canceled"
    assert hand.claim() == []


def test_jobs_of_other_keys_start_behind_thousands_that_wait(
    broker: Broker, redis: Redis, hand: Hand
) -> None:
    enqueue(broker, "first", *(f"held-{number}" for number in range(1000)))
    enqueue(broker, "free", limit_key="shop-2")
    hand.end(hand.take(), "limited", delay=60)
    looks = 0
    while redis.llen("rq:queue:q"):
        assert redis.delete("jobserver:wake:q"), "an idle worker is woken to look on"
        taken = ids(hand.claim())
        looks += 1
        assert redis.zcard("rq:scheduled:q") <= 1 + looks * 250, "one look is short"
    assert taken == ["free"]
    assert redis.zcard("rq:scheduled:q") == 1001


def test_a_follow_up_run_keeps_the_rate_key(broker: Broker, redis: Redis, hand: Hand) -> None:
    enqueue(broker, "a", when_active="rerun")
    running = hand.take()
    enqueue(broker, "a", when_active="rerun")
    hand.end(running)
    assert hash_of(redis, "a")["limit"] == "shop-1"


def test_a_job_type_declares_its_rate_key(server: JobServer, redis: Redis) -> None:
    jobs = [server.enqueue("engine_jobs.call_shop", {"shop_id": 1, "is_limited": True})]
    jobs.append(server.enqueue("engine_jobs.call_shop", {"shop_id": 1, "is_limited": False}))
    jobs.append(server.enqueue("engine_jobs.call_shop", {"shop_id": 2, "is_limited": False}))
    work()
    assert [server.fetch(job.id).status for job in jobs] == ["delayed", "delayed", "completed"]
    assert len(journal()) == 2
    assert redis.exists(LIMIT + "shop-1")
    held = server.enqueue("engine_jobs.call_any", {"key": "mail"})
    work()
    assert server.fetch(held.id).status == "delayed"
    assert redis.exists(LIMIT + "mail")


def test_a_delayed_job_of_a_held_key_can_be_canceled(
    broker: Broker, redis: Redis, hand: Hand
) -> None:
    enqueue(broker, "a", "b")
    hand.end(hand.take(), "limited", delay=60)
    hand.claim()
    assert broker.cancel("b", retention=Q.retention) == "canceled"
    assert places(redis, "b") == ["canceled:q"]


def test_a_rate_key_that_the_payload_lacks_is_refused_by_its_name(server: JobServer) -> None:
    with pytest.raises(errors.PayloadInvalid, match="#/shop_id"):
        server.enqueue("engine_jobs.call_shop", {"is_limited": False})
