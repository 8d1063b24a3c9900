"""Cancel, retry, pause, empty, clean and retention: each in every state a job can be in."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from redis import Redis

from jobserver import JobServer, Queue, Retention, errors
from jobserver.broker import Broker, Ending, Pause, keys
from jobserver.broker.job import packed_value
from jobserver.testing import work
from tests import engine_jobs
from tests.hands import Hand, events, hash_of, places, request_of, story, traces

KEPT = Retention(completed_count=100, failed_count=100)
Q = Queue("q", executor="thread", retention=KEPT)


@pytest.fixture
def hand(broker: Broker) -> Hand:
    return Hand(broker, [Q])


def waiting(hand: Hand, job_id: str) -> None:
    hand.broker.enqueue([request_of(job_id)])


def delayed(hand: Hand, job_id: str) -> None:
    hand.broker.enqueue([request_of(job_id, due="+60000")])


def active(hand: Hand, job_id: str) -> None:
    waiting(hand, job_id)
    hand.take()


def retrying(hand: Hand, job_id: str) -> None:
    waiting(hand, job_id)
    hand.end(hand.take(), "retry", delay=60)


def completed(hand: Hand, job_id: str) -> None:
    waiting(hand, job_id)
    hand.end(hand.take(), value=1)


def failed(hand: Hand, job_id: str) -> None:
    waiting(hand, job_id)
    hand.end(hand.take(), "failed")


def canceled(hand: Hand, job_id: str) -> None:
    waiting(hand, job_id)
    hand.broker.cancel(job_id, retention=KEPT)


def stopped(hand: Hand, job_id: str) -> None:
    waiting(hand, job_id)
    claim = hand.take()
    hand.broker.cancel(job_id, retention=KEPT)
    hand.end(claim)


State = Callable[[Hand, str], None]
STATES: list[State] = [completed, failed, canceled, retrying, active, delayed, waiting]


@pytest.mark.parametrize("state", [waiting, delayed, retrying])
def test_a_job_that_does_not_run_is_canceled_at_once(
    broker: Broker, redis: Redis, hand: Hand, state: State
) -> None:
    state(hand, "a")
    assert broker.cancel("a", retention=KEPT) == "canceled"
    assert places(redis, "a") == ["canceled:q"]
    found = broker.fetch("a")
    assert (found.status, found.due_at) == ("canceled", None)
    assert found.ended_at is not None
    redis.zadd("rq:scheduled:q", {"a": 1})
    assert broker.promote([Q])[0] == 0
    assert hand.claim() == []
    assert story(redis, "a")[-1] == "canceled"


def test_a_running_job_is_told_and_its_result_discarded(
    broker: Broker, redis: Redis, hand: Hand
) -> None:
    waiting(hand, "a")
    claim = hand.take()
    assert broker.standing("a", claim.exec) == "ok"
    assert broker.cancel("a", retention=KEPT) == "asked"
    assert broker.cancel("a", retention=KEPT) == "asked"
    assert broker.standing("a", claim.exec) == "canceled"
    assert broker.standing("a", "another") == "lost"
    assert places(redis, "a") == ["wip:q"]
    assert broker.progress("a", claim.exec, percent=1, message="") == "canceled"
    assert broker.renew([claim.entry], lease=15)[1] == {claim.entry}
    assert hand.end(claim, "completed", value=1) == "canceled"
    assert broker.standing("a", claim.exec) == "lost"
    assert (broker.fetch("a").status, broker.fetch("a").result) == ("canceled", None)
    assert places(redis, "a") == ["canceled:q"]
    assert story(redis, "a") == ["queued", "claimed", "progress", "canceled"]


@pytest.mark.parametrize("word", ["completed", "failed", "retry", "snooze", "release"])
def test_a_canceled_run_never_comes_back(
    broker: Broker, redis: Redis, hand: Hand, word: Any
) -> None:
    waiting(hand, "a")
    claim = hand.take()
    broker.cancel("a", retention=KEPT)
    hand.end(claim, word, delay=0)
    assert places(redis, "a") == ["canceled:q"]
    assert story(redis, "a") == ["queued", "claimed", "canceled"]


@pytest.mark.parametrize("state", [completed, failed, canceled])
def test_an_ended_job_cannot_be_canceled(
    broker: Broker, redis: Redis, hand: Hand, state: State
) -> None:
    state(hand, "a")
    before = hash_of(redis, "a")
    with pytest.raises(errors.WrongState, match="'a' has ended"):
        broker.cancel("a", retention=KEPT)
    assert hash_of(redis, "a") == before


def test_an_unknown_job_is_not_found(server: JobServer) -> None:
    for verb in (server.fetch, server.cancel, server.retry):
        with pytest.raises(errors.JobNotFound, match="'nothing'"):
            verb("nothing")


@pytest.mark.parametrize("state", [failed, canceled, stopped])
def test_a_retry_gives_new_attempts_and_a_clean_state(
    broker: Broker, redis: Redis, hand: Hand, state: State
) -> None:
    state(hand, "a")
    attempt = broker.fetch("a").attempt
    assert broker.retry(["a"], attempts=3) == ["retried"]
    assert places(redis, "a") == ["queue:q"]
    assert redis.ttl(keys.job("a")) == redis.ttl(keys.job("a")) == -1
    assert redis.ttl(keys.results("a")) in (-1, -2)
    found = broker.fetch("a")
    assert (found.status, found.attempt, found.attempts) == ("waiting", attempt, attempt + 3)
    assert (found.error_type, found.ended_at, found.progress) == (None, None, 0)
    for _ in range(2):
        hand.end(hand.take(), "retry", delay=0)
    assert hand.end(hand.take(), value=1) == "ok"
    assert (broker.fetch("a").status, broker.fetch("a").attempt) == ("completed", attempt + 3)
    assert "retried" in story(redis, "a")


@pytest.mark.parametrize("state", [waiting, delayed, active, retrying, completed])
def test_only_what_failed_is_retried(
    broker: Broker, redis: Redis, hand: Hand, state: State
) -> None:
    failed(hand, "b")
    state(hand, "a")
    before, told = hash_of(redis, "a"), story(redis)
    assert broker.retry(["a", "nothing"], attempts=3) == [before["status"], "missing"]
    assert (hash_of(redis, "a"), story(redis)) == (before, told)
    assert broker.retry(["b", "a", "b"], attempts=3) == ["retried", before["status"], "queued"]


def test_the_server_says_why_it_does_not_retry(server: JobServer) -> None:
    job = server.enqueue("engine_jobs.add", {"a": 1})
    with pytest.raises(errors.WrongState, match="is waiting"):
        server.retry(job.id)
    server.cancel(job.id)
    assert server.retry(job.id).status == "waiting"
    assert [job.result for job in work()] == [1]


def test_a_retry_gives_the_attempts_that_the_environment_sets(
    server: JobServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = {"in-threads": {"attempts": 5.0}}
    monkeypatch.setattr(server, "config", replace(server.config, queue_overrides=overrides))
    job = server.enqueue("engine_jobs.fail")
    assert job.attempts == 5
    work()
    assert server.retry(job.id).attempts == 10


def test_a_paused_queue_starts_nothing_of_any_priority(
    broker: Broker, redis: Redis, hand: Hand
) -> None:
    other = Hand(broker, [Q, Queue("o", executor="thread")])
    broker.enqueue([request_of(f"job{n}", queue=o) for n, o in enumerate(Q.origins)])
    held = hand.take()
    assert broker.pause(Q, reason="a reason") is True
    assert broker.pause(Q, reason="another") is False
    broker.enqueue([request_of("later"), request_of("free", queue="o")])
    assert [claim.id for claim in other.claim(threads=9)] == ["free"]
    assert hand.claim(repeat=True) == [held], "what runs goes on"
    assert hand.end(held) == "ok"
    assert pause_of(broker) == Pause(until=0, reason="another")
    assert broker.resume(Q) is True
    assert broker.resume(Q) is False
    assert [claim.id for claim in hand.claim(threads=9)] == ["job1", "later", "job2"]
    assert pause_of(broker) is None
    told = [event for event in events(redis) if event["event"] in ("paused", "resumed")]
    assert [(event["event"], event["queue"]) for event in told] == [
        *(("paused", "q"), ("paused", "q"), ("resumed", "q"))
    ]


def pause_of(broker: Broker) -> Pause | None:
    return broker.statistics([Q])["q"].pause


def test_a_pause_ends_by_its_time(broker: Broker, redis: Redis, hand: Hand) -> None:
    seconds, _ = redis.time()
    broker.enqueue([request_of("a")])
    broker.pause(Q, until=seconds + 60, reason="for a minute \udcff")
    assert pause_of(broker) == Pause(until=seconds + 60, reason="for a minute \\udcff")
    assert hand.claim() == []
    broker.pause(Q, until=seconds - 0.5)
    assert pause_of(broker) is None
    assert hand.take().id == "a"
    assert pause_of(broker) is None
    assert story(redis) == ["queued", "paused", "paused", "resumed", "claimed"]


def test_a_resume_wakes_the_workers(broker: Broker, redis: Redis, hand: Hand) -> None:
    broker.pause(Q)
    broker.resume(Q)
    assert redis.llen(keys.wake("q")) == 8


@pytest.mark.parametrize("count", [1, 600])
def test_empty_removes_what_waits_and_nothing_else(
    broker: Broker, redis: Redis, hand: Hand, count: int
) -> None:
    for state in (active, completed, failed, canceled):
        state(hand, f"{state.__name__}-job")
    for queue in Q.origins:
        names = [f"{queue.replace(':', '-')}-{n}" for n in range(count)]
        broker.enqueue([request_of(name, queue=queue) for name in names])
        broker.enqueue([request_of(f"{name}-d", queue=queue, due="+9000") for name in names])
    redis.rpush("rq:queue:q", "never-was", "active-job")
    assert broker.empty(Q) == 6 * count
    assert broker.empty(Q) == 0
    counts = broker.counts([Q])["q"]
    assert counts == {
        **{"waiting": 0, "active": 1, "delayed": 0},
        **{"completed": 1, "failed": 1, "canceled": 1},
    }
    assert broker.fetch_many(["q-0", "q-0-d"]) == [None, None]
    assert story(redis).count("purged") == 6 * count
    assert traces(redis, "q-high-0") == []


def test_a_call_of_a_removed_job_does_not_bring_it_back(broker: Broker, redis: Redis) -> None:
    request = request_of("a")
    broker.enqueue([request])
    broker.empty(Q)
    broker.enqueue([request])
    assert places(redis, "a") == []


def test_clean_purges_what_ended_long_enough_ago(broker: Broker, redis: Redis, hand: Hand) -> None:
    for state in STATES:
        state(hand, f"{state.__name__}-job")
    everything = ("finished", "failed", "canceled")
    assert broker.clean(Q, older_than=60, registries=everything) == 0
    for name in ("completed", "failed", "canceled"):
        redis.hset(keys.job(f"{name}-job"), "ended_at", "2024-01-01T00:00:00.000000Z")
    assert broker.clean(Q, older_than=60, registries=("failed",)) == 1
    assert traces(redis, "failed-job") == []
    assert broker.clean(Q, older_than=60, registries=everything) == 2
    assert broker.counts([Q])["q"] == {
        **{"waiting": 1, "active": 1, "delayed": 2},
        **{"completed": 0, "failed": 0, "canceled": 0},
    }
    purged = [event for event in events(redis) if event["event"] == "purged"]
    assert [event["job"] for event in purged] == ["failed-job", "completed-job", "canceled-job"]
    assert all(event["run"] for event in purged)


def test_clean_of_all_takes_what_ended_just_now(broker: Broker, redis: Redis, hand: Hand) -> None:
    for n in range(300):
        waiting(hand, f"job-{n}")
    for claim in hand.claim(threads=300):
        hand.end(claim, retention=Retention())
    assert broker.clean(Q, older_than=0, registries=("finished",)) == 300


def test_clean_by_state_names(server: JobServer) -> None:
    server.enqueue("engine_jobs.add", {"a": 1})
    work()
    with pytest.raises(errors.PayloadInvalid, match="completed, failed, canceled"):
        server.clean("in-threads", older_than=0, states=["completed", "waiting"])
    assert server.clean("IN-THREADS", older_than=0, states=["completed"]) == 1


def test_the_oldest_of_three_priorities_go_first(broker: Broker, redis: Redis) -> None:
    kept = Retention(completed_count=3, failed_count=2)
    queue = Queue("q", executor="thread", retention=kept)
    hand = Hand(broker, [queue])
    for n in range(9):
        broker.enqueue([request_of(f"job-{n}", queue=queue.origins[n % 3])])
        hand.end(hand.take())
        ids = [f"job-{m}" for m in range(9) if broker.fetch_many([f"job-{m}"])[0]]
        assert ids == [f"job-{m}" for m in range(max(0, n - 2), n + 1)]
        assert broker.counts([queue])["q"]["completed"] == len(ids)
    for n in range(5):
        broker.enqueue([request_of(f"bad-{n}", queue=queue.origins[n % 3])])
        hand.end(hand.take(), "failed")
        broker.enqueue([request_of(f"off-{n}", queue=queue.origins[-n % 3])])
        broker.cancel(f"off-{n}", retention=kept)
    counts = broker.counts([queue])["q"]
    assert (counts["completed"], counts["failed"], counts["canceled"]) == (3, 2, 2)
    assert [job.id for job in broker.listed(queue, "failed")] == ["bad-4", "bad-3"]
    assert [job.id for job in broker.listed(queue, "finished", start=1, end=1)] == ["job-7"]
    assert traces(redis, "job-5") == []


def test_of_many_ends_at_once_no_more_are_kept(broker: Broker, redis: Redis) -> None:
    queue = Queue("q", executor="thread", retention=Retention(completed_count=3))
    hand = Hand(broker, [queue])
    broker.enqueue([request_of(f"job-{n}", queue=queue.origins[n % 3]) for n in range(250)])
    endings = [
        (Ending(claim=claim, word="completed", value=packed_value(b"1")), queue.retention)
        for claim in hand.claim(threads=250)
    ]
    broker.exchange(hand.name, endings=endings)
    assert broker.counts([queue])["q"]["completed"] == 3


def test_an_unreadable_job_costs_no_other_one_its_place(
    broker: Broker, redis: Redis, hand: Hand
) -> None:
    redis.zadd("rq:failed:q", {f"old-{n}": n for n in range(1500)})
    broker.enqueue([request_of("bad")])
    redis.hdel(keys.job("bad"), "data")
    assert hand.claim() == []
    assert redis.zcard("rq:failed:q") == 1501


def test_a_job_is_purged_when_its_age_is_reached(broker: Broker, redis: Redis, hand: Hand) -> None:
    queue = Queue("q", retention=Retention(completed_age=3600, failed_age=7200))
    for state in (completed, failed, canceled):
        state(hand, f"{state.__name__}-job")
    assert broker.sweep([queue]) == 0
    two_hours_ago = redis.time()[0] - 7100
    for name in ("completed", "failed", "canceled"):
        set_end(redis, f"{name}-job", two_hours_ago)
    assert broker.sweep([queue]) == 1
    assert [job and job.id for job in broker.fetch_many(["completed-job", "failed-job"])] == [
        *(None, "failed-job")
    ]
    for name in ("failed", "canceled"):
        set_end(redis, f"{name}-job", two_hours_ago - 200)
    assert broker.sweep([queue]) == 2
    assert [event["job"] for event in events(redis) if event["event"] == "purged"] == [
        *("completed-job", "failed-job", "canceled-job")
    ]


def set_end(redis: Redis, job_id: str, seconds: float) -> None:
    """Let a job have ended then."""
    text = datetime.fromtimestamp(seconds, tz=UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    redis.hset(keys.job(job_id), "ended_at", text)


def test_the_expiry_in_redis_leaves_the_sweep_its_time(
    broker: Broker, redis: Redis, hand: Hand
) -> None:
    for age in (1, 3600):
        broker.enqueue([request_of("a")])
        hand.end(hand.take(), retention=Retention(completed_age=age))
        assert age + 600 < redis.ttl(keys.job("a")) <= age + 3600
        assert redis.ttl(keys.job("a")) == redis.ttl(keys.results("a"))


@pytest.mark.parametrize("purge", ["trim", "clean"])
def test_retention_never_takes_a_job_that_lives_again(
    broker: Broker, redis: Redis, hand: Hand, purge: str
) -> None:
    broker.enqueue([request_of("a", queue="q:high"), request_of("b")])
    for _ in range(2):
        hand.end(hand.take())
    redis.delete(keys.job("a"))  # it expired, and its key was used again before any sweep
    broker.enqueue([request_of("a", run="r2")])
    assert sorted(places(redis, "a")) == ["finished:q:high", "queue:q"]
    if purge == "trim":
        broker.enqueue([request_of("c", queue="q:high")])
        hand.end(hand.take(), retention=Retention(completed_count=1))
    else:
        broker.clean(Q, older_than=0, registries=("finished",))
    assert places(redis, "a") == ["queue:q"]
    assert places(redis, "b") == []
    assert hand.take().run == "r2"


def test_what_stock_tools_requeued_is_not_retained_away(
    broker: Broker, redis: Redis, hand: Hand
) -> None:
    failed(hand, "a")
    redis.hset(keys.job("a"), mapping={"status": "queued", "ended_at": ""})
    redis.rpush("rq:queue:q", "a")
    broker.clean(Q, older_than=0, registries=("failed",))
    assert places(redis, "a") == ["queue:q"]
    assert hand.take().id == "a"


def test_a_job_that_stock_rq_gave_up_is_kept_its_time(
    broker: Broker, redis: Redis, hand: Hand
) -> None:
    failed(hand, "a")
    redis.hdel(keys.job("a"), "ended_at")  # as StartedJobRegistry.cleanup() leaves it
    assert broker.sweep([Q]) == 0
    assert broker.fetch("a").status == "failed"
    redis.delete(keys.results("a"))
    assert broker.sweep([Q]) == 1


def test_due_jobs_come_to_the_end_of_their_list(broker: Broker, redis: Redis, hand: Hand) -> None:
    seconds, _ = redis.time()
    broker.enqueue(
        [
            request_of("late", due=f"{(seconds + 50) * 1000}"),
            request_of("early", due=f"{(seconds + 40) * 1000}"),
            request_of("high", queue="q:high", due=f"{(seconds + 60) * 1000}"),
            request_of("now"),
        ]
    )
    assert broker.promote([Q]) == (0, seconds + 40)
    assert broker.promote([]) == (0, None)
    redis.zadd("rq:scheduled:q", {"late": 5, "early": 4})
    assert broker.promote([Q], limit=1) == (1, 5)
    assert broker.promote([Q]) == (1, seconds + 60)
    assert [claim.id for claim in hand.claim(threads=9)] == ["now", "early", "late"]
    told = [(event["event"], event.get("reason")) for event in events(redis, "early")]
    assert told[:2] == [*(("delayed", None), ("queued", "due"))]


def test_a_delayed_entry_without_its_job_is_dropped(broker: Broker, redis: Redis) -> None:
    redis.zadd("rq:scheduled:q", {"never-was": 1})
    assert broker.promote([Q]) == (0, None)
    assert places(redis, "never-was") == []
    assert story(redis) == []


def test_a_job_type_of_the_future_is_put_off_and_comes_back(
    server: JobServer, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = server.enqueue("engine_jobs.add", {"a": 1})
    older = {name: kind for name, kind in server.registry.types.items() if name != job.type}
    newer = server.registry.types
    monkeypatch.setattr(server.registry, "types", older)
    (found,) = work()
    assert (found.status, found.attempt) == ("delayed", 0)
    monkeypatch.setattr(server.registry, "types", newer)
    redis.zadd("rq:scheduled:in-threads", {job.id: 1})
    (found,) = work()
    assert (found.status, found.attempt, found.result) == ("completed", 1, 1)


def test_a_discarded_job_fails_at_its_first_attempt(server: JobServer, redis: Redis) -> None:
    server.enqueue("engine_jobs.discard")
    (found,) = work()
    assert (found.status, found.attempt, found.error_message) == ("failed", 1, "no use")
    assert events(redis)[-1]["reason"] == "discarded"


def test_a_queue_keeps_three_as_it_declares(server: JobServer) -> None:
    for priority in ("high", "low", "normal"):
        server.enqueue_many("engine_jobs.kept", [{}] * 4, priority=priority)
    work()
    assert server.counts()["keeps-three"]["completed"] == 3
    assert engine_jobs.KEEPS_THREE.retention.completed_count == 3


def test_statistics_tell_counts_and_pauses_in_one_round_trip(server: JobServer) -> None:
    server.enqueue("engine_jobs.add", {"a": 1})
    server.pause("in-threads", reason="stock-taking")
    server.pause("in-processes", until=time.time() - 1)
    trips = server.broker.connection.info("stats")["total_reads_processed"]
    found = server.statistics()
    # Reading the counter is one of them.
    assert server.broker.connection.info("stats")["total_reads_processed"] - trips <= 2
    assert set(found) == set(server.registry.queues)
    assert found["in-threads"].counts["waiting"] == 1
    assert found["in-threads"].pause == Pause(until=0, reason="stock-taking")
    assert found["in-processes"].pause is None
