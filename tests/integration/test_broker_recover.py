"""Recover and renew: a lost worker's jobs come back once, a living worker's never do."""

from __future__ import annotations

import pytest
from redis import Redis

from jobserver import Queue, Retention
from jobserver.broker import Broker, Claim, Share, keys
from jobserver.broker.exchange import wanted
from jobserver.broker.job import traceback_text
from tests.hands import Hand, events, places, request_of, story

Q = Queue("q", executor="thread", retention=Retention(failed_count=2))
MARK = f"{keys.OURS}recovery"


@pytest.fixture
def hand(broker: Broker) -> Hand:
    return Hand(broker, [Q])


def expire(redis: Redis, *claims: Claim) -> None:
    """Let leases have run out."""
    redis.zadd(keys.LEASES, {claim.entry: 1 for claim in claims})


def recover(broker: Broker, *, interval: float = 5, lease: float = 15) -> list[tuple[str, str]]:
    found = broker.recover([Q], interval=interval, lease=lease)
    return [(recovery.id, recovery.outcome) for recovery in found]


def now_ms(redis: Redis) -> float:
    seconds, micros = redis.time()
    return seconds * 1000 + micros / 1000


def test_a_lost_workers_job_goes_to_the_front_with_an_attempt_spent(
    broker: Broker, redis: Redis, hand: Hand
) -> None:
    broker.enqueue([request_of(name, queue="q:low", run=f"run-{name}") for name in "abc"])
    lost, held = hand.claim(threads=2)
    assert recover(broker) == []
    expire(redis, lost)
    (recovery,) = broker.recover([Q], interval=5, lease=15)
    assert (recovery.id, recovery.run, recovery.outcome) == ("a", "run-a", "queued")
    assert redis.lrange("rq:queue:q:low", 0, -1) == [b"a", b"c"]
    assert places(redis, "a") == ["queue:q:low"]
    assert places(redis, "b") == ["wip:q:low"]
    assert redis.zrange(keys.LEASES, 0, -1) == [held.entry.encode()]
    assert redis.hkeys(keys.HELD) == [held.entry.encode()]
    found = broker.fetch("a")
    assert (found.status, found.attempt, found.error_type) == ("waiting", 1, "WorkerLost")
    ((_, entry),) = redis.xrange(keys.results("a"))
    assert (traceback_text(entry), entry[b"worker_name"].decode()) == ("worker lost", hand.name)
    told = events(redis, "a")[-1]
    assert (told["event"], told["attempt"], told["reason"]) == ("stalled", "1", "worker lost")
    assert recover(broker) == []
    assert hand.take().attempt == 2


def test_the_last_attempt_fails_as_worker_lost(broker: Broker, redis: Redis, hand: Hand) -> None:
    broker.enqueue([request_of("a", attempts=1)])
    expire(redis, hand.take())
    assert recover(broker) == [("a", "failed")]
    found = broker.fetch("a")
    assert (found.status, found.error_type, found.error_message) == (
        "failed",
        "WorkerLost",
        "worker lost",
    )
    assert places(redis, "a") == ["failed:q"]
    assert story(redis, "a") == ["queued", "claimed", "stalled", "failed"]
    assert events(redis, "a")[-1]["reason"] == "worker lost"


def test_a_job_that_was_canceled_meanwhile_does_not_come_back(
    broker: Broker, redis: Redis, hand: Hand
) -> None:
    broker.enqueue([request_of("a")])
    claim = hand.take()
    broker.cancel("a", retention=Q.retention)
    expire(redis, claim)
    assert recover(broker) == [("a", "canceled")]
    assert places(redis, "a") == ["canceled:q"]
    assert story(redis, "a") == ["queued", "claimed", "stalled", "canceled"]
    assert hand.claim() == []


def test_a_noted_run_follows_a_lost_one(broker: Broker, redis: Redis, hand: Hand) -> None:
    broker.enqueue([request_of("a", attempts=1)])
    claim = hand.take()
    broker.enqueue([request_of("a", run="r2", when_active="rerun")])
    expire(redis, claim)
    assert recover(broker) == [("a", "failed")]
    assert hand.take().run == "r2"


def test_failures_of_lost_workers_obey_the_retention(
    broker: Broker, redis: Redis, hand: Hand
) -> None:
    broker.enqueue([request_of(f"job-{n}", attempts=1) for n in range(5)])
    claims = hand.claim(threads=5)
    expire(redis, *claims)
    assert len(recover(broker)) == 5
    assert redis.zcard("rq:failed:q") == 2


def test_many_lost_jobs_come_back_over_several_passes(
    broker: Broker, redis: Redis, hand: Hand
) -> None:
    broker.enqueue([request_of(f"job-{n}") for n in range(5)])
    expire(redis, *hand.claim(threads=5))
    sizes = [len(broker.recover([Q], interval=5, lease=15, limit=2)) for _ in range(4)]
    assert sizes == [2, 2, 1, 0]


def test_a_lease_is_renewed_for_the_run_not_for_the_worker(
    broker: Broker, redis: Redis, hand: Hand
) -> None:
    broker.enqueue([request_of("a"), request_of("b"), request_of("c")])
    kept, forgotten, lost = hand.claim(threads=3)
    expire(redis, kept, forgotten, lost)
    redis.zrem(keys.LEASES, lost.entry)
    broker.cancel("a", retention=Q.retention)
    assert broker.renew([kept.entry, lost.entry], lease=15) == ({lost.entry}, {kept.entry})
    assert redis.zscore(keys.LEASES, kept.entry) > now_ms(redis) + 10_000  # type: ignore[operator]
    assert redis.zscore(keys.LEASES, lost.entry) is None
    assert recover(broker) == [("b", "queued")]
    assert broker.renew([], lease=15) == (set(), set())


def test_after_an_outage_workers_get_a_lease_to_come_back(
    broker: Broker, redis: Redis, hand: Hand
) -> None:
    broker.enqueue([request_of("a")])
    claim = hand.take()
    assert recover(broker) == []
    expire(redis, claim)
    redis.hset(MARK, "pass", f"{now_ms(redis) - 10_500:.0f}")  # the server was away for 10.5 s
    assert recover(broker) == []
    assert recover(broker) == [], "the grace goes on"
    grace = float(redis.hget(MARK, "grace"))  # type: ignore[arg-type]
    assert 14_000 < grace - now_ms(redis) <= 15_000
    assert broker.renew([claim.entry], lease=15) == (set(), set())
    redis.hset(MARK, "grace", f"{now_ms(redis) - 1:.0f}")
    assert recover(broker) == []
    expire(redis, claim)
    assert recover(broker) == [("a", "queued")], "without a sign of life it is lost all the same"


@pytest.mark.parametrize("gap", [0, 5_000, 9_000])
def test_a_pass_that_is_a_little_late_is_no_outage(
    broker: Broker, redis: Redis, hand: Hand, gap: float
) -> None:
    broker.enqueue([request_of("a")])
    expire(redis, hand.take())
    redis.hset(MARK, mapping={"pass": f"{now_ms(redis) - gap:.0f}", "grace": 0})
    assert recover(broker) == [("a", "queued")]


def test_leases_without_a_run_are_cleared_away(broker: Broker, redis: Redis, hand: Hand) -> None:
    broker.enqueue([request_of("job-1"), request_of("job-2")])
    deleted, moved = hand.claim(threads=2)
    redis.delete(keys.job("job-1"))
    redis.hset(keys.job("job-2"), mapping={"status": "finished"})  # as a stock worker would
    expire(redis, deleted, moved)
    assert recover(broker) == []
    assert not redis.exists(keys.LEASES)
    assert not redis.keys("rq:wip:*")
    assert not redis.exists(keys.HELD)
    assert not redis.exists(keys.job("job-1"))
    assert story(redis) == ["queued", "queued", "claimed", "claimed"]


def test_a_queue_that_nobody_declares_any_more_is_recovered_too(
    broker: Broker, redis: Redis
) -> None:
    old = Hand(broker, [Queue("old", executor="thread")])
    broker.enqueue([request_of("a", queue="old", attempts=1)])
    expire(redis, old.take())
    assert recover(broker) == [("a", "failed")]
    assert places(redis, "a") == ["failed:old"]


def lose_alone(broker: Broker, redis: Redis, name: str) -> None:
    """Let a worker of its own be lost with the one job that waits."""
    expire(redis, Hand(broker, [Q], name=name).take())


def test_the_third_worker_that_is_lost_with_one_job_alone_makes_it_poison(
    broker: Broker, redis: Redis
) -> None:
    broker.enqueue([request_of("a", attempts=20)])
    for outcome in ("queued", "queued", "failed"):
        lose_alone(broker, redis, f"worker-{redis.dbsize()}")
        assert recover(broker) == [("a", outcome)]
    found = broker.fetch("a")
    assert (found.error_type, found.error_message) == ("Poison", "worker lost")
    assert (found.attempt, found.attempts) == (3, 20)
    assert events(redis, "a")[-1]["reason"] == "poison"
    assert broker.retry(["a"], attempts=20) == ["retried"]
    lose_alone(broker, redis, "after")
    assert recover(broker) == [("a", "queued")], "an operator's retry counts anew"


def test_a_run_that_shared_its_lost_worker_is_no_suspect(
    broker: Broker, redis: Redis, hand: Hand
) -> None:
    broker.enqueue([request_of(name, attempts=20) for name in "ab"])
    for _ in range(4):
        first, second = hand.claim(threads=2)
        expire(redis, first)
        assert [outcome for _, outcome in recover(broker)] == ["queued"]
        expire(redis, second)  # comes back in a later pass, when it is the last of its worker
        assert [outcome for _, outcome in recover(broker)] == ["queued"]
        expire(redis, *hand.claim(threads=2))
        assert [outcome for _, outcome in recover(broker)] == ["queued", "queued"]
    assert redis.hget(keys.job("a"), "crashes") is None
    assert redis.hget(keys.job("b"), "crashes") is None
    assert not redis.exists(keys.HELD)


def test_the_next_worker_of_that_name_does_not_clear_a_suspect(
    broker: Broker, redis: Redis, hand: Hand
) -> None:
    broker.enqueue([request_of("a", attempts=20)])
    claim = hand.take()
    broker.enqueue([request_of("b")])
    wish = wanted(
        request=1,
        token="another-life-",
        lease=15,
        processes=0,
        threads=1,
        shares=[Share(queue=Q, quota=1, room=1)],
        known=[],
    )
    assert len(broker.exchange(hand.name, claim=wish)[1]) == 1
    expire(redis, claim)
    assert recover(broker) == [("a", "queued")]
    assert redis.hget(keys.job("a"), "crashes") == b"1"


def test_runs_of_several_lost_workers_leave_nothing(broker: Broker, redis: Redis) -> None:
    broker.enqueue([request_of(name) for name in "abc"])
    first, second = Hand(broker, [Q]), Hand(broker, [Q])
    expire(redis, *first.claim(), *second.claim(threads=2))
    assert len(recover(broker)) == 3
    assert redis.hlen(keys.HELD) == 0
