"""Enqueue: one active job per key, one answer per call, one round trip, nothing stale left over."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from redis import Redis

from jobserver import JobServer, Queue, Retention, errors
from jobserver.broker import Broker, EnqueueRequest, keys
from jobserver.ids import new_id
from jobserver.testing import work
from tests import engine_jobs
from tests.hands import Hand, events, hash_of, places, request_of, story, traces

Q = Queue("q", executor="thread")


@pytest.fixture
def hand(broker: Broker) -> Hand:
    return Hand(broker, [Q])


def one(broker: Broker, request: EnqueueRequest, **options: Any) -> tuple[str, str, str]:
    (answer,) = broker.enqueue([request], **options)
    return answer.word, answer.run, answer.raw_status


def test_a_new_job_waits_with_all_it_was_given(server: JobServer, redis: Redis) -> None:
    before = datetime.now(UTC) - timedelta(seconds=1)
    job = server.enqueue(
        "engine_jobs.named", {"name": "a b", "value": 7}, owner="me", priority="low", timeout=9
    )
    assert job.id == "named-a-b--" + job.id[-16:]
    assert (job.status, job.duplicate, job.key) == ("waiting", False, "named-a b")
    found = server.fetch(job.id)
    assert (found.run_id, found.type, found.queue) == (job.run_id, job.type, "in-threads")
    assert (found.priority, found.owner, found.key) == ("low", "me", "named-a b")
    assert (found.attempt, found.attempts, found.payload) == (0, 2, {"name": "a b", "value": 7})
    assert found.created_at is not None
    assert before < found.created_at < before + timedelta(seconds=60)
    assert found.enqueued_at == found.created_at
    assert places(redis, job.id) == ["queue:in-threads:low"]
    assert redis.smembers("rq:queues") == {b"rq:queue:in-threads:low"}
    assert redis.ttl(keys.job(job.id)) == -1


def test_the_key_of_an_active_job_gets_that_job(server: JobServer, redis: Redis) -> None:
    first = server.enqueue("engine_jobs.named", {"name": "a", "value": 1})
    again = server.enqueue("engine_jobs.named", {"name": "a", "value": 2}, priority="high")
    assert (again.id, again.run_id, again.duplicate) == (first.id, first.run_id, True)
    assert places(redis, first.id) == ["queue:in-threads"]
    assert server.fetch(first.id).payload == {"name": "a", "value": 1}
    assert [job.result for job in work()] == [1]
    assert story(redis, first.id) == ["queued", "claimed", "completed"]


def test_a_duplicate_is_the_active_job_as_it_stands(server: JobServer, redis: Redis) -> None:
    hand = Hand(server.broker, [engine_jobs.THREADS])
    server.enqueue(
        "engine_jobs.named", {"name": "a", "value": 1}, owner="me", attempts=7, priority="high"
    )
    claim = hand.take()
    server.broker.progress(claim.id, claim.exec, percent=40, message="on it")
    again = server.enqueue("engine_jobs.named", {"name": "a", "value": 2}, owner="you")
    assert again == replace(server.fetch(claim.id), duplicate=True)
    assert (again.payload, again.owner, again.attempts, again.priority, again.progress) == (
        *({"name": "a", "value": 1}, "me", 7, "high", 40),
    )


def test_an_active_job_without_data_is_a_duplicate_too(broker: Broker, redis: Redis) -> None:
    one(broker, request_of("a", run="r1"))
    redis.hdel(keys.job("a"), "data")
    assert one(broker, request_of("a")) == ("duplicate", "r1", "queued")


def test_a_duplicates_large_payload_stays_where_it_is(server: JobServer, redis: Redis) -> None:
    job = server.enqueue("engine_jobs.named", {"name": "x" * 70_000})
    again = server.enqueue("engine_jobs.named", {"name": "x" * 70_000})
    assert (again.run_id, again.duplicate, again.payload) == (job.run_id, True, None)


def test_a_key_given_with_the_call_is_the_id(server: JobServer) -> None:
    first = server.enqueue("engine_jobs.add", {"a": 1}, key="mine")
    assert first.id == "mine"
    assert server.enqueue("engine_jobs.add", {"a": 2}, key="mine").duplicate
    assert not server.enqueue("engine_jobs.add", {"a": 1}).duplicate


@pytest.mark.parametrize("end", ["completed", "failed", "canceled"])
def test_of_an_ended_job_nothing_survives_its_key(
    server: JobServer, redis: Redis, broker: Broker, end: str
) -> None:
    hand = Hand(broker, [engine_jobs.THREADS])
    first = server.enqueue("engine_jobs.named", {"name": "a"}, owner="me", priority="high")
    claim = hand.take()
    broker.progress(claim.id, claim.exec, percent=50, message="half")
    assert hand.end(claim, "retry", delay=0) == "ok"
    claim = hand.take()
    broker.progress(claim.id, claim.exec, percent=70, message="more")
    if end == "canceled":
        server.cancel(first.id)
    hand.end(claim, "completed" if end == "canceled" else end, value=1)  # type: ignore[arg-type]
    assert server.fetch(first.id).status == end

    second = server.enqueue("engine_jobs.named", {"name": "a", "value": 2})
    assert not second.duplicate
    assert second.run_id != first.run_id
    assert places(redis, first.id) == ["queue:in-threads"]
    assert traces(redis, first.id) == []
    found = server.fetch(first.id)
    assert (found.status, found.progress, found.message, found.attempt) == ("waiting", 0, "", 0)
    assert (found.result, found.error_type, found.error_message) == (None, None, None)
    assert (found.started_at, found.ended_at, found.worker, found.owner) == (None,) * 4
    assert redis.ttl(keys.job(first.id)) == -1
    counts = server.counts()["in-threads"]
    assert counts == {"waiting": 1} | dict.fromkeys(counts.keys() - {"waiting"}, 0)
    assert [job.result for job in work()] == [2]


def test_what_remains_of_a_deleted_job_is_not_the_new_ones(
    broker: Broker, redis: Redis, hand: Hand
) -> None:
    # A stock worker writes into the hash of a job that was deleted while it ran.
    redis.hset(keys.job("left"), mapping={"last_heartbeat": "x", "progress": "99", "cancel": "1"})
    redis.expire(keys.job("left"), 100)
    redis.xadd(keys.results("left"), {"type": 1})
    assert one(broker, request_of("left"))[0] == "new"
    assert not {"last_heartbeat", "progress", "cancel"} & set(hash_of(redis, "left"))
    assert redis.ttl(keys.job("left")) == -1
    assert traces(redis, "left") == []
    assert hand.end(hand.take()) == "ok"


def test_a_key_held_by_another_type_is_a_conflict(server: JobServer, redis: Redis) -> None:
    first = server.enqueue("engine_jobs.named", {"name": "a"})
    for _ in range(2):
        with pytest.raises(errors.KeyConflict, match=r"'named-a'.*'engine_jobs\.named'"):
            server.enqueue("engine_jobs.other", {"name": "a"})
        work()
    assert server.fetch(first.id).type == "engine_jobs.named"
    assert story(redis) == ["queued", "claimed", "completed"]


def test_a_job_of_stock_rq_is_not_given_out_as_ours(broker: Broker, redis: Redis) -> None:
    redis.hset(keys.job("a"), mapping={"status": "queued", "origin": "q", "data": "[]"})
    assert one(broker, request_of("a")) == ("conflict", "", "queued")
    redis.hset(keys.job("a"), "status", "finished")
    assert one(broker, request_of("a"))[0] == "new"


def test_a_repeated_call_gets_its_job_again(broker: Broker, redis: Redis, hand: Hand) -> None:
    request = request_of("a", call="c", run="r1")
    assert one(broker, request) == ("new", "r1", "queued")
    again = request_of("a", call="c", run="r2")
    assert one(broker, again) == ("new", "r1", "queued")
    claim = hand.take()
    assert one(broker, again) == ("new", "r1", "started")
    hand.end(claim)
    assert one(broker, again) == ("new", "r1", "finished")
    assert hash_of(redis, "a")["run"] == "r1"
    assert story(redis) == ["queued", "claimed", "completed"]


def test_a_repeated_call_gets_its_job_though_that_is_purged(
    broker: Broker, redis: Redis, hand: Hand
) -> None:
    one(broker, request_of("a", call="c", run="r1"))
    hand.end(hand.take(), retention=Retention(completed_count=0))
    assert not redis.exists(keys.job("a"))
    assert 590 < redis.ttl(keys.call("c")) <= 600
    assert one(broker, request_of("a", call="c", run="r2")) == ("new", "r1", "finished")
    assert not redis.exists(keys.job("a"))
    redis.delete(keys.call("c"))  # ten minutes later
    assert one(broker, request_of("a", call="c", run="r3")) == ("new", "r3", "queued")


def test_a_repeated_call_gets_its_job_though_another_has_the_key_now(
    broker: Broker, hand: Hand
) -> None:
    one(broker, request_of("a", call="c1", run="r1"))
    hand.end(hand.take())
    assert one(broker, request_of("a", call="c2", run="r2"))[0] == "new"
    assert one(broker, request_of("a", call="c1", run="r3")) == ("new", "r1", "finished")
    hand.end(hand.take())
    assert hand.claim() == []


def test_a_repeated_duplicate_is_still_one(broker: Broker, redis: Redis, hand: Hand) -> None:
    one(broker, request_of("a", call="c1", run="r1"))
    second = request_of("a", call="c2", run="r2")
    assert one(broker, second) == ("duplicate", "r1", "queued")
    assert 590 < redis.ttl(keys.call("c2")) <= 600
    hand.end(hand.take())
    assert one(broker, second) == ("duplicate", "r1", "finished")
    assert hand.claim() == []


def test_a_repeated_conflict_is_decided_anew(broker: Broker, redis: Redis) -> None:
    one(broker, request_of("a", call="c1"))
    other = request_of("a", call="c2", type_name="test.other", run="r2")
    for _ in range(2):
        assert one(broker, other, call_ttl=3600) == ("conflict", "test.it", "queued")
    redis.delete(keys.job("a"))
    assert one(broker, other, call_ttl=3600) == ("new", "r2", "queued")


def test_an_outboxs_call_is_remembered_as_long_as_it_asks(broker: Broker, redis: Redis) -> None:
    assert one(broker, request_of("a", call="c", run="r1"), call_ttl=7200)[0] == "new"
    assert 7190 < redis.ttl(keys.call("c")) <= 7200
    redis.delete(keys.job("a"))
    assert one(broker, request_of("a", call="c", run="r2"), call_ttl=7200)[1] == "r1"
    broker.forget_calls(["c", "never-heard-of"])
    assert 590 < redis.ttl(keys.call("c")) <= 600
    broker.forget_calls([])


def test_a_call_without_a_key_is_answered_with_its_job(server: JobServer, redis: Redis) -> None:
    first = server.enqueue("engine_jobs.add", {"a": 1}, call="the call")
    again = server.enqueue("engine_jobs.add", {"a": 1}, call="the call")
    assert (again.id, again.run_id, again.duplicate) == (first.id, first.run_id, False)
    work()
    assert server.enqueue("engine_jobs.add", {"a": 1}, call="the call").run_id == first.run_id
    assert story(redis) == ["queued", "claimed", "completed"]


def test_updates_to_a_running_job_make_one_more_run(server: JobServer, redis: Redis) -> None:
    hand = Hand(server.broker, [engine_jobs.THREADS])
    first = server.enqueue("engine_jobs.rerun", {"name": "a", "value": 1})
    claim = hand.take()
    noted = [server.enqueue("engine_jobs.rerun", {"name": "a", "value": n}) for n in (2, 3, 3)]
    assert {job.id for job in noted} == {first.id}
    assert all(job.duplicate for job in noted)
    assert len({job.run_id for job in noted} - {first.run_id}) == 1, "one run follows, not three"
    assert places(redis, first.id) == ["wip:in-threads"]
    assert hand.end(claim, value=1) == "ok"

    found = server.fetch(first.id)
    assert (found.run_id, found.status) == (noted[0].run_id, "waiting")
    assert found.payload == {"name": "a", "value": 3}, "the last update is what must not be lost"
    assert [job.result for job in work()] == [3]
    runs = [(event["event"], event["run"]) for event in events(redis, first.id)]
    assert runs == [
        (name, run)
        for run in (first.run_id, noted[0].run_id)
        for name in ("queued", "claimed", "completed")
    ]


def test_an_update_that_changes_nothing_of_a_waiting_job_is_a_duplicate(
    server: JobServer, redis: Redis
) -> None:
    first = server.enqueue("engine_jobs.rerun", {"name": "a", "value": 1})
    assert server.enqueue("engine_jobs.rerun", {"name": "a", "value": 1}).run_id == first.run_id
    assert server.enqueue("engine_jobs.rerun", {"name": "a", "value": 2}).run_id != first.run_id
    assert [job.result for job in work()] == [2]
    assert [line[3] for line in engine_jobs.journal()] == ["value=1", "value=2"]


@pytest.mark.parametrize("outcome", ["completed", "failed", "canceled"])
def test_the_noted_run_follows_whatever_the_end(
    broker: Broker, redis: Redis, hand: Hand, outcome: Any
) -> None:
    one(broker, request_of("a", run="r1"))
    claim = hand.take()
    again = request_of("a", call="c2", run="r2", when_active="rerun")
    assert one(broker, again) == ("rerun", "r2", "started")
    assert hand.end(claim, outcome) == "ok"
    assert hand.end(claim, outcome) == "recorded", "its end may be handed in once more"
    assert (hash_of(redis, "a")["run"], places(redis, "a")) == ("r2", ["queue:q"])
    assert one(broker, again) == ("rerun", "r2", "queued")
    hand.end(hand.take())
    assert hand.claim() == []


def test_a_retry_of_the_run_does_not_start_the_noted_one(
    broker: Broker, redis: Redis, hand: Hand
) -> None:
    one(broker, request_of("a", run="r1"))
    claim = hand.take()
    one(broker, request_of("a", run="r2", when_active="rerun"))
    hand.end(claim, "retry", delay=0)
    claim = hand.take()
    assert (claim.run, claim.attempt) == ("r1", 2)
    hand.end(claim)
    assert hand.take().run == "r2"


def test_a_job_that_is_being_canceled_is_followed_by_a_new_one(
    broker: Broker, redis: Redis, hand: Hand
) -> None:
    one(broker, request_of("a", run="r1", payload='{"n":1}'))
    claim = hand.take()
    broker.cancel("a", retention=Q.retention)
    assert one(broker, request_of("a", run="r2", payload='{"n":2}')) == ("rerun", "r2", "started")
    # By its policy an active key returns its job: that is the noted one now.
    third = request_of("a", run="r3", payload='{"n":3}')
    assert one(broker, third) == ("duplicate", "r2", "started")
    hand.end(claim)
    claim = hand.take()
    assert (claim.run, claim.canceled) == ("r2", False)
    assert b'"n":2' in claim.data
    hand.end(claim)
    assert [(e["event"], e["run"]) for e in events(redis, "a")] == [
        *(("queued", "r1"), ("claimed", "r1"), ("canceled", "r1")),
        *(("queued", "r2"), ("claimed", "r2"), ("completed", "r2")),
    ]


def test_the_delay_of_a_noted_run_counts_from_its_enqueue(
    broker: Broker, redis: Redis, hand: Hand
) -> None:
    one(broker, request_of("a"))
    claim = hand.take()
    one(broker, request_of("a", run="r2", due="+60000", when_active="rerun"))
    seconds, micros = redis.time()
    hand.end(claim)
    (_, due), *_ = redis.zrange("rq:scheduled:q", 0, -1, withscores=True)
    assert due <= seconds + micros / 1e6 + 60
    one(broker, request_of("b"))
    claim = hand.take()
    one(broker, request_of("b", run="r3", due="+0", when_active="rerun"))
    hand.end(claim)
    assert hand.take().run == "r3"


@pytest.mark.parametrize("how", ["seconds", "timedelta", "at"])
def test_a_delayed_job_waits_elsewhere(server: JobServer, redis: Redis, how: str) -> None:
    hour = timedelta(hours=1)
    in_an_hour = {
        "seconds": {"delay": 3600.5},
        "timedelta": {"delay": hour},
        "at": {"at": datetime.now(UTC) + hour},
    }
    options: dict[str, Any] = {"priority": "high", **in_an_hour[how]}
    job = server.enqueue("engine_jobs.named", {"name": "a"}, **options)
    assert (job.status, job.raw_status) == ("delayed", "scheduled")
    assert places(redis, job.id) == ["scheduled:in-threads:high"]
    found = server.fetch(job.id)
    assert (found.status, found.enqueued_at) == ("delayed", None)
    assert found.due_at is not None
    assert abs(found.due_at - datetime.now(UTC) - timedelta(hours=1)) < timedelta(seconds=60)
    assert server.enqueue("engine_jobs.named", {"name": "a"}).duplicate, "it is active"
    assert work() == []
    assert story(redis) == ["delayed"]


@pytest.mark.parametrize("option", [{"delay": 0}, {"at": datetime(2020, 1, 1, tzinfo=UTC)}])
def test_what_is_due_waits_in_its_queue(
    server: JobServer, redis: Redis, option: dict[str, Any]
) -> None:
    job = server.enqueue("engine_jobs.add", {"a": 1}, **option)
    assert (job.status, places(redis, job.id)) == ("waiting", ["queue:in-threads"])
    assert story(redis) == ["queued"]


@pytest.mark.parametrize(
    ("options", "pointer"),
    [
        ({"delay": -1}, "#/delay"),
        ({"delay": float("nan")}, "#/delay"),
        ({"delay": float("inf")}, "#/delay"),
        ({"at": datetime(2030, 1, 1)}, "#/at"),
        ({"at": datetime.now(UTC), "delay": 1}, "#/at"),
        ({"attempts": 0}, "#/attempts"),
        ({"attempts": 2.5}, "#/attempts"),
        ({"timeout": -1}, "#/timeout"),
        ({"timeout": True}, "#/timeout"),
        ({"priority": "urgent"}, "#/priority"),
        ({"priority": -1}, "#/priority"),
    ],
)
def test_an_impossible_option_is_refused_and_nothing_written(
    server: JobServer, redis: Redis, options: dict[str, Any], pointer: str
) -> None:
    with pytest.raises(errors.PayloadInvalid) as refused:
        server.enqueue("engine_jobs.add", {"a": 1}, **options)
    assert [error["pointer"] for error in refused.value.errors] == [pointer]
    assert redis.keys() == []


@pytest.mark.parametrize(
    ("payload", "error"),
    [
        ({}, errors.PayloadInvalid),
        ({"a": 1, "x": 1}, errors.PayloadInvalid),
        ({"a": 1, "b": "\ud800"}, errors.PayloadInvalid),
        ({"a": "1" * (1024 * 1024)}, errors.PayloadTooLarge),
    ],
    ids=["missing", "unknown", "no text", "too large"],
)
def test_a_wrong_payload_is_refused_and_nothing_written(
    server: JobServer, redis: Redis, payload: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        server.enqueue_many("engine_jobs.add", [{"a": 1}, payload])
    with pytest.raises(errors.UnknownJobType):
        server.enqueue("engine_jobs.nothing", payload)
    assert redis.keys() == []


def test_a_bulk_is_answered_one_by_one(server: JobServer, redis: Redis) -> None:
    names = ["a", "b", "a", "c"]
    jobs = server.enqueue_many("engine_jobs.named", [{"name": name} for name in names])
    assert [job.id for job in jobs] == [f"named-{name}" for name in names]
    assert [job.duplicate for job in jobs] == [False, False, True, False]
    assert server.enqueue_many("engine_jobs.named", []) == []
    assert [job.id for job in work()] == ["named-a", "named-b", "named-c"]


def test_a_thousand_jobs_keep_their_order(server: JobServer, redis: Redis) -> None:
    jobs = server.enqueue_many("engine_jobs.add", [{"a": n} for n in range(1000)])
    waiting = [job_id.decode() for job_id in redis.lrange("rq:queue:in-threads", 0, -1)]
    assert waiting == [job.id for job in jobs]
    assert [job.payload["a"] for job in server.broker.waiting(engine_jobs.THREADS)] == [
        *range(1000)
    ]


def test_an_enqueue_is_one_round_trip(server: JobServer, redis: Redis) -> None:
    server.enqueue("engine_jobs.add", {"a": 1})  # connects and loads the scripts
    redis.flushdb()
    with redis.monitor() as monitor:
        server.enqueue("engine_jobs.named", {"name": "a"}, delay=5, owner="me")
        server.enqueue_many("engine_jobs.add", [{"a": n} for n in range(250)])
        redis.echo("done")
        sent = []
        for command in monitor.listen():
            if command["command"].startswith("ECHO"):
                break
            sent.append((command["client_type"], command["command"].split()[0]))
    greeting = {"HELLO", "CLIENT"}  # of the connection that says "done"
    assert [word for kind, word in sent if kind != "lua" and word not in greeting] == [
        "EVALSHA"
    ] * 2


def test_a_server_that_forgot_the_scripts_gets_them_again(server: JobServer, redis: Redis) -> None:
    server.enqueue("engine_jobs.add", {"a": 1})
    redis.script_flush()
    server.enqueue("engine_jobs.add", {"a": 2})
    assert [job.result for job in work()] == [1, 2]


def test_a_call_of_any_id_and_text_goes_through(broker: Broker, redis: Redis, hand: Hand) -> None:
    odd = 'ä"\\\n\x00\u2028 %s'
    request = request_of("a", key=odd, owner=odd, call=new_id(), payload='{"x":"\\u0000/ä"}')
    one(broker, request)
    claim = hand.take()
    one(broker, request_of("a", key=odd, owner=odd, when_active="rerun", payload='{"x":"ä/"}'))
    hand.end(claim)
    found = broker.fetch("a")
    assert (found.key, found.owner, found.payload) == (odd, odd, {"x": "ä/"})
    assert EnqueueRequest.from_json(request.to_json()) == request
