"""Claim: what waits goes to one worker, in order, within its slots; a lost answer loses nothing."""

from __future__ import annotations

import pytest
from redis import Redis
from rq.job import Job as RQJob
from rq.serializers import JSONSerializer
from rq.worker import BaseWorker

from jobserver import Queue, errors
from jobserver.broker import Broker, Share, keys
from jobserver.broker.exchange import wanted
from tests.hands import Hand, events, hash_of, places, request_of, story

Q = Queue("q", executor="thread")
P = Queue("p")


@pytest.fixture
def hand(broker: Broker) -> Hand:
    return Hand(broker, [Q])


def ids(claims: list) -> list[str]:
    return [claim.id for claim in claims]


def enqueue(broker: Broker, *names: str, queue: str = "q") -> None:
    broker.enqueue([request_of(name, queue=queue) for name in names])


def test_a_claimed_job_is_in_one_place_with_its_lease(
    broker: Broker, redis: Redis, hand: Hand
) -> None:
    broker.enqueue([request_of("a", run="r", timeout=9, attempts=4, payload='{"n":1}')])
    claim = hand.take()
    assert (claim.id, claim.run, claim.type, claim.origin) == ("a", "r", "test.it", "q")
    assert (claim.timeout, claim.attempt, claim.attempts) == (9, 1, 4)
    assert claim.data == b'["jobserver.runner.run",null,["test.it",{"n":1}],{}]'
    assert places(redis, "a") == ["wip:q"]
    assert redis.zrange("rq:wip:q", 0, -1) == [claim.entry.encode()]
    seconds, _ = redis.time()
    assert 0 < redis.zscore(keys.LEASES, claim.entry) / 1000 - seconds <= 16  # type: ignore[operator]
    assert redis.hkeys(keys.HELD) == [claim.entry.encode()]
    found = broker.fetch("a")
    assert (found.status, found.attempt, found.worker) == ("active", 1, hand.name)
    assert found.started_at is not None
    assert abs(found.started_at.timestamp() - claim.started) < 0.01
    assert abs(claim.started - seconds) < 5


def test_first_in_first_out_within_a_priority_and_strict_between_them(
    broker: Broker, hand: Hand
) -> None:
    for name, queue in (("n1", "q"), ("l1", "q:low"), ("h1", "q:high"), ("n2", "q")):
        enqueue(broker, name, queue=queue)
    enqueue(broker, "h2", queue="q:high")
    assert ids(hand.claim(threads=2)) == ["h1", "h2"]
    enqueue(broker, "h3", queue="q:high")
    assert ids(hand.claim(threads=10)) == ["h3", "n1", "n2", "l1"]


def test_a_worker_takes_only_what_its_slots_hold(broker: Broker) -> None:
    hand = Hand(broker, [Q, P])
    enqueue(broker, "q1", "q2", "q3")
    enqueue(broker, "p1", "p2", "p3", queue="p")
    assert ids(hand.claim(processes=0, threads=0)) == []
    assert ids(hand.claim(processes=1, threads=2)) == ["q1", "q2", "p1"]
    assert ids(hand.claim(processes=2, threads=0)) == ["p2", "p3"]
    assert ids(hand.claim(processes=9, threads=9, room=0)) == []
    assert ids(hand.claim(processes=9, threads=9)) == ["q3"]


def test_queues_get_their_share_first_and_then_what_is_left(broker: Broker, hand: Hand) -> None:
    other = Queue("o", executor="thread")
    enqueue(broker, "q1", "q2", "q3", "q4", "q5")
    enqueue(broker, "o1", queue="o")
    both = Hand(broker, [Q, other])
    assert ids(both.claim(threads=4, quota=2)) == ["q1", "q2", "o1", "q3"]
    enqueue(broker, "o2", "o3", "o4", queue="o")
    assert ids(both.claim(threads=4, quota=2)) == ["q4", "q5", "o2", "o3"]


def test_a_queues_room_is_kept_through_both_passes(broker: Broker, hand: Hand) -> None:
    enqueue(broker, *"abcdef")
    assert ids(hand.claim(threads=6, quota=2, room=3)) == ["a", "b", "c"]


def test_no_more_run_than_the_queue_allows_in_all_workers(broker: Broker) -> None:
    limited = Queue("q", executor="thread", global_concurrency=2)
    one, two = Hand(broker, [limited]), Hand(broker, [limited])
    for queue in ("q:high", "q", "q:low"):
        enqueue(broker, f"{queue.replace(':', '-')}-job", queue=queue)
    (first,) = one.claim(threads=1)
    (second,) = two.claim(threads=5)
    assert one.claim(threads=5) == two.claim(threads=5) == []
    one.end(first)
    assert len(two.claim(threads=5)) == 1
    two.end(second, "retry", delay=3600)
    assert one.claim(threads=5) == []
    assert len(broker.waiting(limited)) == 1


def test_a_repeated_claim_hands_out_what_its_lost_answer_held(
    broker: Broker, redis: Redis, hand: Hand
) -> None:
    enqueue(broker, "a", "b", "c")
    known = hand.take()
    lost = hand.claim(threads=1)
    again = hand.claim(threads=5, repeat=True, knows=[known])
    assert again == lost
    assert ids(again) == ["b"]
    assert hand.claim(threads=5, repeat=True, knows=[known, *again]) == []
    assert places(redis, "c") == ["queue:q"]
    assert story(redis, "b") == ["queued", "claimed"]
    assert ids(hand.claim(threads=5)) == ["c"]


def test_a_repeat_does_not_hand_out_what_is_over_or_taken_back(
    broker: Broker, redis: Redis, hand: Hand
) -> None:
    enqueue(broker, "a", "b", "c")
    ended, taken_back, held = hand.claim(threads=3)
    hand.end(ended)
    redis.zadd(keys.LEASES, {taken_back.entry: 1})
    broker.recover([Q], interval=5, lease=15)
    assert hand.claim(repeat=True) == [held]


def test_a_request_that_is_behind_takes_nothing(broker: Broker, hand: Hand) -> None:
    enqueue(broker, "a")
    hand.request = 5
    first = hand.claim()
    hand.end(*first)
    enqueue(broker, "b")
    for behind in (0, 3, 6):
        hand.request = behind
        assert hand.claim(repeat=True) == []
    assert ids(hand.claim()) == ["b"]


def test_a_namesake_begins_its_own_count_and_holds_nothing_yet(
    broker: Broker, redis: Redis, hand: Hand
) -> None:
    enqueue(broker, "a", "b")
    for _ in range(5):
        hand.claim(threads=0)
    dead = hand.take()

    def claim(request: int) -> list[str]:
        claim = wanted(
            request=request,
            token="second life-",
            lease=15,
            processes=0,
            threads=1,
            shares=[Share(queue=Q, quota=1, room=1)],
            known=(),
        )
        return ids(broker.exchange(hand.name, claim=claim)[1])

    assert claim(0) == ["b"]
    assert claim(0) == ["b"], "a repeat: what it holds, and not its dead namesake's job"
    assert hand.end(dead) == "ok"


def test_entries_without_a_waiting_job_are_dropped(
    broker: Broker, redis: Redis, hand: Hand
) -> None:
    redis.rpush("rq:queue:q", "never-was")
    enqueue(broker, "a", "b")
    redis.rpush("rq:queue:q", "a")  # as `rq requeue` of a waiting job does
    first, second = hand.claim(threads=5)
    assert (first.id, second.id) == ("a", "b")
    hand.end(first)
    redis.rpush("rq:queue:q", "a")
    assert hand.claim() == []
    assert places(redis, "a") == ["finished:q"]
    assert redis.llen("rq:queue:q") == 0


def test_a_job_that_stock_tools_moved_counts_where_it_lies(
    broker: Broker, redis: Redis, hand: Hand
) -> None:
    enqueue(broker, "a")
    redis.rpush("rq:queue:q:high", "a")
    (claim,) = hand.claim()
    assert (claim.origin, hash_of(redis, "a")["origin"]) == ("q:high", "q:high")
    assert hand.end(claim) == "ok"
    assert places(redis, "a") == ["queue:q", "finished:q:high"]
    assert hand.claim() == []
    assert places(redis, "a") == ["finished:q:high"]


def test_a_job_that_would_have_expired_does_not_while_it_runs(
    broker: Broker, redis: Redis, hand: Hand
) -> None:
    enqueue(broker, "a")
    hand.end(hand.take(), "failed")
    theirs = RQJob.fetch("a", connection=redis, serializer=JSONSerializer)
    theirs.requeue()  # `rq requeue` leaves the expiry of the failed job
    assert redis.ttl(keys.job("a")) > 0
    hand.take()
    assert redis.ttl(keys.job("a")) == -1


def test_rq_reads_the_executions_that_last(broker: Broker, redis: Redis, hand: Hand) -> None:
    enqueue(broker, "short", "long")
    short, long = hand.claim(threads=2)
    worker = BaseWorker([], name=hand.name, connection=redis)
    assert worker.get_current_executions(refresh=True) == []
    broker.show(hand.name, [long.entry])
    broker.show(hand.name, [long.entry])
    (execution,) = worker.get_current_executions(refresh=True)
    assert (execution.job_id, execution.id) == ("long", long.exec)
    assert abs(execution.created_at.timestamp() - long.started) < 0.01
    job = RQJob.fetch("long", connection=redis, serializer=JSONSerializer)
    assert [found.id for found in job.get_executions()] == [long.exec]
    hand.end_many([(short, "completed"), (long, "completed")])
    broker.show(hand.name, [long.entry])
    assert worker.get_current_executions(refresh=True) == job.get_executions() == []
    assert not redis.keys("rq:execution*")


def test_a_queue_that_none_of_ours_pushed_to_is_visited_on_a_look(
    broker: Broker, redis: Redis, hand: Hand
) -> None:
    hand.queues = [*hand.queues, Queue("other", executor="thread")]
    enqueue(broker, "a")
    assert ids(hand.claim(threads=2, look=False)) == ["a"]
    hand.end(hand.held.popitem()[1], "failed")
    RQJob.fetch("a", connection=redis, serializer=JSONSerializer).requeue()
    assert hand.claim(look=False) == []
    assert ids(hand.claim()) == ["a"]


def test_a_job_without_data_is_parked_with_its_reason(
    broker: Broker, redis: Redis, hand: Hand
) -> None:
    enqueue(broker, "bad", "good")
    redis.hdel(keys.job("bad"), "data")
    assert ids(hand.claim(threads=5)) == ["good"]
    assert places(redis, "bad") == ["failed:q"]
    found = broker.fetch("bad")
    assert (found.status, found.error_type) == ("failed", "Unreadable")
    assert found.error_message
    broker.sweep([Q])
    assert broker.fetch("bad").status == "failed"
    told = events(redis, "bad")[-1]
    assert (told["event"], told["reason"]) == ("failed", "unreadable")
    assert broker.cancel("good", retention=Q.retention) == "asked"
    with pytest.raises(errors.WrongState):
        broker.cancel("bad", retention=Q.retention)


def test_one_token_wakes_one_idle_worker_and_none_is_left_when_all_is_taken(
    broker: Broker, redis: Redis, hand: Hand
) -> None:
    enqueue(broker, "a")
    assert redis.llen(keys.wake("q")) == 1
    enqueue(broker, "b", queue="q:high")
    enqueue(broker, *(f"c{n}" for n in range(20)), queue="q:low")
    assert redis.llen(keys.wake("q")) == 8
    hand.claim(threads=3)
    assert redis.llen(keys.wake("q")) == 8, "others may be needed for the rest"
    hand.claim(threads=100)
    assert redis.llen(keys.wake("q")) == 0


def test_an_idle_claim_writes_nothing_of_jobs(broker: Broker, redis: Redis, hand: Hand) -> None:
    assert hand.claim() == []
    assert {key.decode() for key in redis.scan_iter()} == {f"{keys.OURS}claim:{hand.name}-"}
