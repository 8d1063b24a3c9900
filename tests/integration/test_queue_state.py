"""How queues stand: counts, pauses, jobs of a state and recurring entries, in one round trip."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from redis import Redis

from jobserver import JobServer, Queue, Retention, errors
from jobserver.broker import Broker
from jobserver.broker.entries import Entries
from jobserver.broker.entry import Entry
from jobserver.testing import work
from tests.hands import Hand, request_of, round_trips

Q = Queue("q", executor="thread", retention=Retention(completed_count=100_000))


@pytest.fixture
def hand(broker: Broker) -> Hand:
    """A worker of that queue."""
    return Hand(broker, [Q])


def test_bull_counts_what_waits_in_a_paused_queue_as_paused(broker: Broker, hand: Hand) -> None:
    broker.enqueue([request_of(f"job-{n}", queue=Q.origins[n % 3]) for n in range(5)])
    broker.enqueue([request_of("later", due="+9000")])
    hand.take()
    hand.end(hand.take(), "failed")
    hand.end(hand.take())
    moving = {"waiting": 2, "active": 1, "completed": 1, "failed": 1, "delayed": 1, "paused": 0}
    assert broker.statistics([Q])["q"].bull_counts == moving
    broker.pause(Q, reason="stock-taking")
    assert broker.statistics([Q])["q"].bull_counts == moving | {"waiting": 0, "paused": 2}
    assert broker.statistics([Q])["q"].counts["waiting"] == 2
    broker.pause(Q, until=time.time() - 1)
    assert broker.statistics([Q])["q"].bull_counts == moving
    broker.pause(Q, until=time.time() + 60)
    assert broker.statistics([Q])["q"].bull_counts["paused"] == 2


def test_the_longest_wait_of_those_that_are_next_is_known(broker: Broker, hand: Hand) -> None:
    assert broker.statistics([Q])["q"].oldest_at is None
    broker.enqueue([request_of("low", queue="q:low"), request_of("later", due="+9000")])
    broker.enqueue([request_of("high", queue="q:high")])
    assert broker.statistics([Q])["q"].oldest_at == broker.fetch("low").enqueued_at
    hand.take()
    hand.take()
    assert broker.statistics([Q])["q"].oldest_at is None


def test_a_job_that_waits_for_another_counts_as_waiting(broker: Broker, redis: Redis) -> None:
    redis.zadd("rq:deferred:q", {"child": 1})
    redis.zadd("rq:deferred:q:low", {"other-child": 1})
    assert broker.statistics([Q])["q"].counts["waiting"] == 2


def test_listed_jobs_come_newest_first_by_inclusive_ranks(broker: Broker, hand: Hand) -> None:
    for n in range(7):
        broker.enqueue([request_of(f"job-{n}", queue=Q.origins[n % 3])])
        hand.end(hand.take(), "failed")

    def ids(start: int, end: int) -> list[str]:
        return [job.id for job in broker.listed(Q, "failed", start=start, end=end)]

    assert ids(0, 2) == ["job-6", "job-5", "job-4"]
    assert ids(5, 5) == ["job-1"]
    assert ids(5, 2**31 - 1) == ["job-1", "job-0"]
    assert ids(7, 9) == []
    assert broker.listed(Q, "failed", start=0, end=0)[0] == broker.fetch("job-6")


def test_running_jobs_are_listed_by_their_ids(broker: Broker, hand: Hand) -> None:
    broker.enqueue([request_of("a"), request_of("b")])
    hand.take()
    assert [(job.id, job.status) for job in broker.listed(Q, "wip")] == [("a", "active")]


def test_of_jobs_that_ended_at_once_those_of_higher_priority_come_first(
    broker: Broker, hand: Hand, redis: Redis
) -> None:
    for job_id, origin in zip(("high", "normal", "low"), Q.origins, strict=True):
        broker.enqueue([request_of(job_id, queue=origin)])
        hand.end(hand.take(), "failed")
        redis.zadd(f"rq:failed:{origin}", {job_id: 7})
    assert [job.id for job in broker.listed(Q, "failed")] == ["high", "normal", "low"]


def test_jobs_that_completed_before_anyone_counted_are_counted_while_they_are_kept(
    broker: Broker, hand: Hand, redis: Redis
) -> None:
    broker.enqueue([request_of("a"), request_of("b")])
    hand.end(hand.take())
    redis.delete("jobserver:totals")
    assert broker.statistics([Q])["q"].completed_ever == 1
    hand.end(hand.take())
    assert broker.statistics([Q])["q"].completed_ever == 2


def test_a_listed_job_whose_hash_is_gone_is_left_out(broker: Broker, redis: Redis) -> None:
    redis.zadd("rq:failed:q", {"gone": 2})
    assert broker.listed(Q, "failed") == []


@pytest.mark.parametrize("states", [["active"], ["failed", "completed"]])
def test_an_overview_takes_one_round_trip_and_no_more_commands_for_more_jobs(
    server: JobServer, redis: Redis, states: list[str]
) -> None:
    Entries(server.broker).declare(
        [Entry(id="tick", type="engine_jobs.add", seconds=60, payload={})], prune=True
    )
    server.enqueue("engine_jobs.add", {"a": -1})  # of an empty queue there is less to tell
    server.overview("in-threads", states=states)  # loads the scripts
    server.statistics()

    def cost(call: Callable[[], object]) -> tuple[int, int]:
        found = []
        for _ in range(3):  # a connection that another test left open may say something meanwhile
            before = commands(redis)
            call()
            found.append(commands(redis) - before)
        return round_trips(redis, call), min(found)

    few = cost(server.statistics), cost(lambda: server.overview("in-threads", states=states))
    server.enqueue_many("engine_jobs.add", [{"a": n} for n in range(500)])
    server.broker.promote([])
    many = cost(server.statistics), cost(lambda: server.overview("in-threads", states=states))
    assert [trips for trips, _ in (*few, *many)] == [1, 1, 1, 1]
    assert few == many
    found = server.overview("in-threads", states=states)
    assert found.state.counts["waiting"] == 501
    assert [(entry.id, entry.seconds) for entry, _ in found.entries] == [("tick", 60)]
    ((_, due),) = found.entries
    assert due is not None
    assert due - time.time() == pytest.approx(30, abs=31)


def commands(redis: Redis) -> int:
    """How many commands the server has run, those of scripts included."""
    found = redis.info("commandstats")
    return sum(one["calls"] for name, one in found.items() if name != "cmdstat_info")


def test_all_failed_jobs_of_a_queue_are_retried_with_their_types_attempts(
    server: JobServer, redis: Redis
) -> None:
    server.enqueue_many("engine_jobs.discard", [{}] * 3, priority="low")
    server.enqueue("engine_jobs.named", {"name": "fine"})
    work()
    stranger = server.enqueue("engine_jobs.discard")
    server.cancel(stranger.id)
    ids = {job.id for job in server.failed("in-threads")}
    assert len(ids) == 3
    assert server.retry_all_failed("IN-THREADS") == 3
    assert server.failed("in-threads") == []
    assert {job.id for job in server.broker.waiting(server.registry.queue("in-threads"))} == ids
    assert {server.fetch(job_id).attempts for job_id in ids} == {1 + 3}
    assert server.fetch(stranger.id).status == "canceled"
    assert server.retry_all_failed("in-threads") == 0


def test_a_job_is_retried_in_its_own_queue_only(server: JobServer) -> None:
    job = server.enqueue("engine_jobs.discard")
    work()
    with pytest.raises(errors.JobNotFound, match="in-processes"):
        server.retry(job.id, queue="in-processes")
    with pytest.raises(errors.UnknownQueue):
        server.retry(job.id, queue="nowhere")
    assert server.retry(job.id, queue="In-Threads").status == "waiting"


def test_a_sweep_takes_what_is_older_than_the_queue_keeps_it(
    server: JobServer, redis: Redis
) -> None:
    old, new = (server.enqueue("engine_jobs.add", {"a": n}) for n in range(2))
    work()
    redis.hset(f"rq:job:{old.id}", "ended_at", "2024-01-01T00:00:00.000000Z")
    assert server.sweep("in-threads") == 1
    assert server.broker.fetch_many([old.id])[0] is None
    assert server.fetch(new.id).status == "completed"
