"""The event stream: each change of a job's state is in it once, in order, with its run."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis import Redis

from jobserver import JobServer, Queue, Retention, errors
from jobserver.broker import Broker, connect, keys, scripts
from jobserver.testing import work
from tests import engine_jobs
from tests.hands import Hand, events, request_of, story

Q = Queue("q", executor="thread")
COMMON = {"event", "job", "run"}
FIELDS = {
    "queued": {"type", "queue", "key", "owner", "attempts", "due", "payload"},
    "delayed": {"type", "queue", "key", "owner", "attempts", "due", "payload"},
    "claimed": {"queue", "attempt", "worker"},
    "progress": {"queue", "percent", "message"},
    "completed": {"queue", "attempt", "worker", "ms", "result"},
    "failed": {
        *{"queue", "attempt", "worker", "ms", "error_type", "error_message", "reason"},
        "retry_at",
    },
    "retried": {"queue", "attempts"},
    "stalled": {"queue", "attempt", "worker", "reason", "ms"},
    "canceled": {"queue"},
    "purged": {"queue", "reason"},
}


@pytest.fixture
def hand(broker: Broker) -> Hand:
    return Hand(broker, [Q])


def test_one_life_with_everything_in_it(broker: Broker, redis: Redis, hand: Hand) -> None:
    broker.enqueue([request_of("a", run="r1", key="k", owner="me", payload='{"n":1}', due="+9000")])
    redis.zadd("rq:scheduled:q", {"a": 1})
    broker.promote([Q])
    claim = hand.take()
    broker.progress("a", claim.exec, percent=50, message="half")
    hand.end(claim, "retry", delay=0)
    hand.end(hand.take(), "snooze", delay=60, reason="busy")
    redis.zadd("rq:scheduled:q", {"a": 1})
    broker.promote([Q])
    hand.end(hand.take(), "release", reason="shut down")
    redis.zadd(keys.LEASES, {hand.take().entry: 1})
    broker.recover([Q], interval=5, lease=15)
    hand.end(hand.take(), "failed", reason="no use")
    broker.retry(["a"], attempts=1)
    broker.cancel("a", retention=Q.retention)
    broker.retry(["a"], attempts=1)
    hand.end(hand.take(), value=7)
    broker.clean(Q, older_than=0, registries=("finished",))
    told = events(redis, "a")
    assert [(e["event"], e.get("attempt"), e.get("reason")) for e in told] == [
        ("delayed", None, None),
        ("queued", None, "due"),
        ("claimed", "1", None),
        ("progress", None, None),
        ("failed", "1", "error"),
        ("claimed", "2", None),
        ("delayed", "2", "busy"),
        ("queued", None, "due"),
        ("claimed", "2", None),
        ("queued", "2", "shut down"),
        ("claimed", "2", None),
        ("stalled", "2", "worker lost"),
        ("claimed", "3", None),
        ("failed", "3", "no use"),
        ("retried", None, None),
        ("canceled", None, None),
        ("retried", None, None),
        ("claimed", "4", None),
        ("completed", "4", None),
        ("purged", None, "clean"),
    ]
    assert {event["run"] for event in told} == {"r1"}
    assert {event["queue"] for event in told} == {"q"}
    for event in told:
        wanted = COMMON | FIELDS[event["event"]]
        if event.get("reason") in ("due", "busy", "shut down"):  # not how it began
            wanted = COMMON | {"queue"}
        assert wanted <= set(event), event
    first, last = told[0], told[-2]
    assert (first["type"], first["key"], first["owner"], first["attempts"]) == (
        *("test.it", "k", "me", "3"),
    )
    assert first["payload"] == '["jobserver.runner.run",null,["test.it",{"n":1}],{}]'
    assert last["result"] == "Nw=="


def test_what_changes_nothing_says_nothing(broker: Broker, redis: Redis, hand: Hand) -> None:
    broker.enqueue([request_of("a", call="c")])
    claim = hand.take()
    before = redis.xlen(keys.EVENTS)
    broker.enqueue([request_of("a", call="c"), request_of("a", type_name="test.other")])
    broker.enqueue([request_of("a"), request_of("a", when_active="rerun")])
    hand.claim()
    hand.claim(repeat=True)
    broker.renew([claim.entry], lease=15)
    broker.recover([Q], interval=5, lease=15)
    broker.promote([Q])
    broker.sweep([Q])
    broker.empty(Q)
    broker.reconcile([Q])
    broker.retry(["a"], attempts=1)
    broker.resume(Q)
    broker.cancel("a", retention=Q.retention)
    broker.fetch("a")
    broker.counts([Q])
    assert redis.xlen(keys.EVENTS) == before


def test_each_run_of_a_reused_id_has_its_own_name(server: JobServer, redis: Redis) -> None:
    runs = []
    for value in range(3):
        runs.append(server.enqueue("engine_jobs.named", {"name": "a", "value": value}).run_id)
        work()
    assert len(set(runs)) == 3
    assert [(e["run"], e["event"]) for e in events(redis)] == [
        (run, word) for run in runs for word in ("queued", "claimed", "completed")
    ]


def test_a_retry_says_when_it_comes(server: JobServer, redis: Redis) -> None:
    job = server.enqueue("engine_jobs.fail_slowly")
    work()
    told = events(redis, job.id)[-1]
    due = server.fetch(job.id).due_at
    assert due is not None
    assert int(told["retry_at"]) == round(due.timestamp() * 1000)
    assert (told["error_type"], told["error_message"]) == ("ValueError", "always")
    assert story(redis) == ["queued", "claimed", "failed"]


def test_the_stream_stays_at_its_bound(redis: Redis, valkey: str) -> None:
    connection = connect(valkey)
    broker = Broker(connection, events_max_mib=0)  # a thousand at least
    broker.enqueue([request_of(f"job-{n}") for n in range(3000)])
    assert 1000 <= redis.xlen(keys.EVENTS) <= 1200
    assert events(redis)[-1]["job"] == "job-2999"
    connection.close()


def test_reconciling_tells_what_stock_tools_ended_once(
    broker: Broker, redis: Redis, hand: Hand
) -> None:
    broker.enqueue([request_of(name, run=f"run-{name}") for name in ("ours", "theirs")])
    hand.end(hand.take())
    assert broker.reconcile([Q]) == 0
    redis.lrem("rq:queue:q", 0, "theirs")
    redis.hset(
        keys.job("theirs"),
        mapping={"status": "finished", "ended_at": "2030-01-01T00:00:00.000000Z"},
    )
    redis.zadd("rq:finished:q", {"theirs": 4_000_000_000})
    redis.zadd("rq:finished:q", {"not-our-kind": 4_000_000_001})
    assert broker.reconcile([Q]) == 1
    assert broker.reconcile([Q]) == 0
    told = events(redis, "theirs")[-1]
    assert (told["event"], told["run"], told["reason"]) == (
        *("completed", "run-theirs", "by a stock tool"),
    )


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.datetimes(datetime(1970, 1, 1), datetime(9999, 12, 31)))
def test_times_are_written_as_python_and_rq_write_them(redis: Redis, moment: datetime) -> None:
    body = "return iso(tonumber(ARGV[1]), tonumber(ARGV[2]))"
    text = re.sub("@(EVENTS|BACKLOG)@", "1000", scripts._source("_state")) + body
    since = moment - datetime(1970, 1, 1)
    seconds = since.days * 86400 + since.seconds
    found = redis.eval(text, 0, seconds, since.microseconds)
    assert found.decode() == moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ").rjust(27, "0")
    assert datetime.fromisoformat(found.decode()) == moment.replace(tzinfo=UTC)


def test_times_are_the_servers(broker: Broker, redis: Redis) -> None:
    before = redis.time()
    broker.enqueue([request_of("a")])
    after = redis.time()
    created = broker.fetch("a").created_at
    assert created is not None
    micros = [seconds * 10**6 + rest for seconds, rest in (before, after)]
    assert micros[0] <= round(created.timestamp() * 10**6) <= micros[1]


def test_without_redis_a_plain_enqueue_is_refused_in_time(
    server: JobServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    nowhere = Broker(connect("redis://127.0.0.1:1"))
    monkeypatch.setattr(server, "broker", nowhere)
    started = datetime.now(UTC)
    for call in (
        lambda: server.enqueue("engine_jobs.add", {"a": 1}),
        lambda: server.fetch("a"),
        lambda: server.pause("in-threads"),
        lambda: server.counts(),
    ):
        with pytest.raises(errors.RedisUnavailable, match="cannot be reached"):
            call()
    assert (datetime.now(UTC) - started).total_seconds() < 8
    assert errors.RedisUnavailable.status == 503


@pytest.fixture
def full(redis: Redis) -> Iterator[Callable[[], object]]:
    """Return a function that makes the server full; it has room again after the test."""
    yield lambda: redis.config_set("maxmemory", "1")
    redis.config_set("maxmemory", "0")


def test_a_full_server_takes_no_job_and_lets_the_running_ones_finish(
    server: JobServer, redis: Redis, full: Callable[[], object]
) -> None:
    hand = Hand(server.broker, [engine_jobs.THREADS])
    server.enqueue("engine_jobs.named", {"name": "ended"})
    hand.end(hand.take())
    server.enqueue("engine_jobs.named", {"name": "running"})
    claim = hand.take()
    before = {key: redis.dump(key) for key in redis.scan_iter()}
    full()
    for names in (["new"], ["ended"], ["new", "running"], ["running"]):
        with pytest.raises(errors.RedisUnavailable, match="takes no writes"):
            server.enqueue_many("engine_jobs.named", [{"name": name} for name in names])
    assert {key: redis.dump(key) for key in redis.scan_iter()} == before
    assert server.broker.renew([claim.entry], lease=15) == (set(), set())
    assert hand.end(claim, value=3) == "ok"
    assert server.fetch(claim.id).result == 3


def test_a_replica_refuses_writes_and_not_with_a_riddle(server: JobServer, redis: Redis) -> None:
    redis.replicaof("127.0.0.1", "1")
    try:
        with pytest.raises(errors.RedisUnavailable):
            server.enqueue("engine_jobs.add", {"a": 1})
    finally:
        redis.replicaof("NO", "ONE")
    assert server.enqueue("engine_jobs.add", {"a": 1}).status == "waiting"


def test_a_server_that_says_nothing_is_given_up_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        broker = Broker(connect(f"redis://127.0.0.1:{silent.getsockname()[1]}"))
        started = time.monotonic()
        with pytest.raises(errors.RedisUnavailable, match="cannot be reached"):
            broker.enqueue([request_of("a")])
        assert time.monotonic() - started < 2
        broker.connection.close()


def test_a_connection_that_died_in_the_pool_is_replaced(server: JobServer, redis: Redis) -> None:
    server.enqueue("engine_jobs.add", {"a": 1})
    for client in redis.client_list():
        if client["name"] != "mine" and client["id"] != str(redis.client_id()):
            redis.client_kill_filter(_id=client["id"])
    assert server.enqueue("engine_jobs.add", {"a": 2}).status == "waiting"
    for client in redis.client_list():
        if client["id"] != str(redis.client_id()):
            redis.client_kill_filter(_id=client["id"])
    assert server.counts()["in-threads"]["waiting"] == 2


def test_the_journal_agrees_with_the_events(server: JobServer, redis: Redis) -> None:
    job = server.enqueue("engine_jobs.fail")
    (found,) = work()
    assert (found.status, found.attempt) == ("failed", 3)
    assert [line[:2] for line in engine_jobs.journal()] == [[job.id, str(n)] for n in (1, 2, 3)]
    assert story(redis) == ["queued", *["claimed", "failed"] * 3]
    assert Retention().failed_count >= 3
