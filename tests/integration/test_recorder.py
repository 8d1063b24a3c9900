"""The recorder writes what the events tell: every run, every attempt, once, in both databases."""

from __future__ import annotations

import logging
import threading
import tracemalloc
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from redis import Redis
from rq import Queue as RQQueue
from rq import Retry, SimpleWorker
from rq.serializers import JSONSerializer
from sqlalchemy import Engine, RowMapping, select, text, update

from jobserver import JobServer, Queue
from jobserver.broker import Broker, connect, keys
from jobserver.broker.job import envelope
from jobserver.errors import LedgerBehind, NotMigrated
from jobserver.ledger.models import attempts, position, runs
from jobserver.ledger.models import lines as line_rows
from jobserver.ledger.prune import prune
from jobserver.ledger.runs import Sought, find
from jobserver.payload import dumps
from jobserver.policy import MOST
from jobserver.recorder import Recorder
from jobserver.scheduler.backlog_watch import BacklogWatch
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


def test_a_failed_attempt_is_kept_with_its_traceback_and_how_its_process_ended(
    recorder: Recorder, engine: Engine, broker: Broker, hand: Hand
) -> None:
    broker.enqueue([request_of("a", run="r1", attempts=2)])
    hand.end(hand.take(), "retry", exit_reason="killed by SIGSEGV", peak_mib=52)
    hand.end(hand.take(), "failed", peak_mib=7)
    recorder.work()
    first, last = rows(engine, attempts)
    assert first["traceback"] == last["traceback"] == "Traceback: it failed"
    assert (first["exit_reason"], first["peak_rss"]) == ("killed by SIGSEGV", 52 * 1024 * 1024)
    assert (last["exit_reason"], last["peak_rss"]) == (None, 7 * 1024 * 1024)
    (run,) = rows(engine, runs)
    assert run["fingerprint"] and run["error_message"] == "no"


def test_what_an_operator_removes_is_purged_and_what_retention_removes_stays(
    recorder: Recorder, engine: Engine, broker: Broker, redis: Redis, hand: Hand
) -> None:
    broker.enqueue([request_of(name, run=f"run-{name}") for name in ("kept", "cleaned")])
    for claim in hand.claim(threads=2):
        hand.end(claim)
    for name in ("kept", "cleaned"):
        redis.hset(keys.job(name), "ended_at", "2020-01-01T00:00:00.000000Z")
    redis.zrem("rq:finished:q", "cleaned")
    assert broker.sweep([Q]) == 1
    redis.zadd("rq:finished:q", {"cleaned": 1})
    assert broker.clean(Q, older_than=0, registries=("finished",)) == 1
    broker.enqueue([request_of("given-up", run="run-given-up")])
    hand.end(hand.take(), "failed")
    assert broker.clean(Q, older_than=0, registries=("failed",)) == 1
    broker.enqueue([request_of("emptied", run="run-emptied")])
    assert broker.empty(Q) == 1
    recorder.work()
    found = {
        row["run"]: (row["state"], bool(row["purged_at"]), bool(row["settled_at"]))
        for row in rows(engine, runs)
    }
    assert found == {
        "run-kept": ("completed", False, False),
        "run-cleaned": ("completed", True, False),
        "run-given-up": ("failed", True, True),  # no dead letter any more
        "run-emptied": ("purged", True, False),
    }


def test_a_job_that_is_enqueued_anew_settles_its_dead_letters(
    recorder: Recorder, engine: Engine, broker: Broker, hand: Hand
) -> None:
    for run in ("r1", "r2"):
        broker.enqueue([request_of("a", run=run, attempts=1)])
        hand.end(hand.take(), "failed")
        recorder.work()
    first, last = rows(engine, runs)
    assert first["settled_at"] is not None and last["settled_at"] is None
    broker.enqueue([request_of("a", run="r3", attempts=1)])
    hand.end(hand.take(), "failed")
    recorder.work()
    assert [row["settled_at"] is None for row in rows(engine, runs)] == [False, False, True]
    with engine.begin() as connection:  # as a discard does
        connection.execute(update(runs).values(settled_at=datetime.now(UTC)))
    broker.retry(["a"], attempts=1)
    hand.end(hand.take(), "failed")
    recorder.work()
    assert [row["settled_at"] is None for row in rows(engine, runs)] == [False, False, True]


def test_a_run_older_than_the_ledger_is_recorded_with_what_redis_knows(
    recorder: Recorder, engine: Engine, broker: Broker, redis: Redis, hand: Hand
) -> None:
    broker.enqueue([request_of("a", run="r1", key="k"), request_of("gone", run="r2")])
    redis.delete(keys.EVENTS)
    for claim in hand.claim(threads=2):
        hand.end(claim)
    redis.delete(keys.job("gone"))
    recorder.work()
    known, unknown = rows(engine, runs)
    assert (known["type"], known["key"], known["state"]) == ("test.it", "k", "completed")
    assert (unknown["type"], unknown["job"], unknown["state"]) == ("", "gone", "completed")


def odd(length: int) -> str:
    """Return a text that hardly packs."""
    return "".join(chr(0x4E00 + number * 7919 % 20000) for number in range(length))


@pytest.mark.parametrize("column", ["organization", "owner", "key", "trace"])
def test_no_text_is_too_long_to_be_recorded_and_found(
    recorder: Recorder, engine: Engine, broker: Broker, column: str
) -> None:
    long = odd(1300)
    more = {column: long} if column != "organization" else {}
    payload = dumps({"organizationId": long}).decode() if column == "organization" else "{}"
    broker.enqueue([request_of("a", run="r1", payload=payload, **more)])
    broker.enqueue([request_of("b", run="r2")])
    recorder.work()
    assert [row["run"] for row in rows(engine, runs)] == ["r1", "r2"]
    for asked, found in ((long, ["r1"]), (f"{long}!", [])):
        assert [run.run for run in find(engine, Sought(**{column: asked}))[0]] == found


def test_a_job_of_very_many_attempts_can_be_retried_and_recorded(
    recorder: Recorder, engine: Engine, broker: Broker, hand: Hand
) -> None:
    broker.enqueue([request_of("a", run="r1", attempts=MOST)])
    hand.end(hand.take(), "failed")
    broker.retry(["a"], attempts=MOST)
    recorder.work()
    (run,) = rows(engine, runs)
    assert run["attempts"] == broker.fetch("a").attempts == MOST


def test_recorders_at_once_record_each_event_once(
    recorder: Recorder, server: JobServer, engine: Engine, broker: Broker, hand: Hand
) -> None:
    is_over = threading.Event()

    def work(one: Recorder) -> None:
        while not is_over.is_set():
            one.work()

    others = [recorder, Recorder(server, engine), Recorder(server, engine)]
    threads = [threading.Thread(target=work, args=(one,)) for one in others]
    for thread in threads:
        thread.start()
    for number in range(30):
        broker.enqueue([request_of(f"{number}-{n}", attempts=2) for n in range(10)])
        hand.end_many([(claim, "retry") for claim in hand.claim(threads=10)])
        hand.end_many([(claim, "completed") for claim in hand.claim(threads=10)])
    is_over.set()
    for thread in threads:
        thread.join()
    recorder.work()
    found = rows(engine, runs)
    assert Counter(row["state"] for row in found) == {"completed": 300}
    assert len(rows(engine, attempts)) == 600
    (row,) = rows(engine, position)
    assert row["events"] == 300 * 5
    with engine.connect() as connection:
        counted = "SELECT sum(n) FROM jobserver_series WHERE minute = 0 AND what = 'completed'"
        assert connection.scalar(text(counted)) == 300
    for one in others[1:]:
        one.close()


def test_without_its_tables_it_falls_behind_and_catches_up(
    recorder: Recorder, engine: Engine, broker: Broker, hand: Hand
) -> None:
    recorder.work()
    for rename in ("jobserver_run RENAME TO away", "away RENAME TO jobserver_run"):
        broker.enqueue([request_of(f"job-{rename[0]}", run=f"run-{rename[0]}")])
        with engine.begin() as connection:
            connection.execute(text(f"ALTER TABLE {rename}"))
        if rename.endswith("away"):
            hand.end(hand.take())
            with pytest.raises(NotMigrated):
                recorder.work()
    assert recorder.work() == 4
    states = [row["state"] for row in rows(engine, runs)]
    assert states == ["waiting", "completed"]


@pytest.fixture
def small_backlog(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no more than a MiB be unrecorded; comes before `server`."""
    monkeypatch.setenv("LEDGER_BACKLOG_MIB", "1")


def test_at_the_bound_nothing_is_enqueued_and_nothing_trimmed_until_it_is_recorded(
    small_backlog: None,
    server: JobServer,
    recorder: Recorder,
    engine: Engine,
    redis: Redis,
    caplog: pytest.LogCaptureFixture,
) -> None:
    watch = BacklogWatch(server.broker)
    recorder.work()
    made = 0
    levels = []
    while not levels or levels[-1] != "full":
        server.enqueue_many("engine_jobs.say", [{"text": "x" * 2000}] * 100)
        made += 100
        levels.append(watch.look())
    assert levels.index("behind") < levels.index("full")
    assert "the ledger is behind by" in caplog.text and "nothing can be enqueued" in caplog.text
    with pytest.raises(LedgerBehind, match="caught up") as refused:
        server.enqueue("engine_jobs.say", {"text": "more"})
    assert (refused.value.status, refused.value.retry_after) == (503, 10)
    assert redis.xlen(keys.EVENTS) == made
    hand = Hand(server.broker, [server.registry.queue("in-threads")])
    assert hand.end(hand.take()) == "ok", "what runs comes to its end"
    recorder.work()
    server.enqueue("engine_jobs.say", {"text": "more"})
    assert watch.look() == "well"
    assert "the ledger has caught up" in caplog.text
    recorder.work()
    assert len(rows(engine, runs)) == made + 1


def test_the_number_of_events_is_a_bound_when_nobody_measures(
    small_backlog: None, server: JobServer, recorder: Recorder, redis: Redis
) -> None:
    recorder.work()
    most = 2 * 1024 * 1024 // 256
    pipe = redis.pipeline(transaction=False)
    for _ in range(most):
        pipe.xadd(keys.EVENTS, {"event": "progress", "job": "a", "run": "r1"})
    pipe.execute()
    server.enqueue("engine_jobs.say", {"text": "the last"})
    with pytest.raises(LedgerBehind):
        server.enqueue("engine_jobs.say", {"text": "more"})


def old_events(redis: Redis, count: int) -> None:
    """Add events of long ago to an empty stream."""
    pipe = redis.pipeline(transaction=False)
    for number in range(1, count + 1):
        event = {"event": "progress", "job": "a", "run": "r1", "queue": "q"}
        pipe.xadd(keys.EVENTS, event, id=f"{number}-0")
    pipe.execute()


def test_what_is_recorded_is_trimmed_and_an_older_database_is_noticed(
    recorder: Recorder, engine: Engine, broker: Broker, redis: Redis, caplog: Any
) -> None:
    old_events(redis, 1000)
    broker.enqueue([request_of("a", run="r1")])
    assert recorder.work() == 1001
    broker.enqueue([request_of("b", run="r2")])
    assert 1 <= redis.xlen(keys.EVENTS) < 200, "but for the node that is not full"
    recorder.work()
    assert caplog.text == ""
    with engine.begin() as connection:
        connection.execute(update(position).values(position="5-0"))
    recorder.work()
    assert caplog.text.count("was an older database restored?") == 1
    broker.enqueue([request_of("c", run="r3")])
    recorder.work()
    assert [row["run"] for row in rows(engine, runs)] == ["r1", "r2", "r3"]
    assert len(caplog.records) == 1


def test_what_is_not_recorded_is_never_trimmed(redis: Redis, valkey: str) -> None:
    connection = connect(valkey)
    broker = Broker(connection, events_max_mib=0)  # a thousand, if nobody reads them
    old_events(redis, 1000)
    broker.recorded("500-0", events=500)
    broker.enqueue([request_of(f"job-{n}") for n in range(2000)])
    (first, _), *others = redis.xrange(keys.EVENTS)
    assert 300 < int(first.partition(b"-")[0]) <= 501, "but whole nodes of what is recorded"
    assert len(others) >= 2000 + 499
    connection.close()


def test_an_older_redis_is_noticed(
    recorder: Recorder, engine: Engine, broker: Broker, redis: Redis, caplog: Any
) -> None:
    broker.enqueue([request_of("a", run="r1"), request_of("b", run="r2")])
    recorder.work()
    last = redis.xrevrange(keys.EVENTS, count=1)[0][0]
    redis.delete(keys.EVENTS)
    redis.xadd(keys.EVENTS, {"event": "queued", "job": "a", "run": "r1"}, id="5-0")
    with caplog.at_level(logging.ERROR):
        recorder.work()
        recorder.work()
    assert caplog.text.count("was an older state of Redis restored?") == 1
    assert last.decode() in caplog.text


@pytest.mark.parametrize("lost", ["all", "the last"])
def test_a_redis_that_lost_events_and_has_a_slow_clock_is_recorded_on(
    recorder: Recorder, engine: Engine, broker: Broker, redis: Redis, hand: Hand, lost: str
) -> None:
    broker.enqueue([request_of("a", run="r1")])
    recorder.work()
    ahead = f"{int(datetime.now(UTC).timestamp() * 1000) + 3_600_000}-7"
    with engine.begin() as connection:
        connection.execute(update(position).values(position=ahead))
    if lost == "all":
        redis.flushall()
    recorder.work()
    broker.enqueue([request_of("b", run="r2")])
    hand.end(hand.claim(threads=9)[-1])
    recorder.work()
    states = {row["run"]: row["state"] for row in rows(engine, runs)}
    assert states["r2"] == "completed"


def test_an_event_that_cannot_be_recorded_tells_no_secret(
    recorder: Recorder, broker: Broker, redis: Redis, caplog: Any
) -> None:
    data = envelope("f", "engine_jobs.sign_in", b'{"user":"ada","password":"hunter22"}')
    broker.enqueue([request_of("a", run="r1", type_name="engine_jobs.sign_in", data=data)])
    made = redis.xrange(keys.EVENTS)[0][1]
    for run, attempts_text in (("r2", "many"), ("r3", str(2**70))):
        redis.xadd(keys.EVENTS, made | {b"run": run, b"attempts": attempts_text})
    recorder.work()
    for run in ("r2", "r3"):
        assert f"cannot be recorded: event=queued job=a run={run}: " in caplog.text
    assert "hunter22" not in caplog.text


def test_long_lines_of_many_runs_are_recorded_a_few_at_a_time(
    recorder: Recorder, engine: Engine, redis: Redis
) -> None:
    line = '{"message":"%s"}' % ("x" * 60_000)
    pipe = redis.pipeline(transaction=False)
    for number in range(1000):
        told = {"event": "log", "job": "a", "run": f"r{number}", "first": 1, "oldest": 1}
        pipe.xadd(keys.EVENTS, told | {"lines": f"[{line}]"})
    pipe.execute()
    tracemalloc.start()
    try:
        assert recorder.work() == 1000
        assert tracemalloc.get_traced_memory()[1] < 150 * 1024 * 1024, "60 MB of lines"
    finally:
        tracemalloc.stop()


def test_the_ledger_forgets_ended_runs_by_age_and_by_count(
    recorder: Recorder, engine: Engine, broker: Broker, hand: Hand
) -> None:
    names = [f"{n:011x}{n:012x}" for n in range(8)]
    broker.enqueue([request_of(name, run=name, attempts=1) for name in names])
    claims = {claim.run: claim for claim in hand.claim(threads=7)}
    hand.end_many([(claims[name], "failed") for name in names[1:7]])
    recorder.work()
    now = datetime.now(UTC)
    with engine.begin() as connection:
        old = runs.c.run.in_(names[:3])
        connection.execute(update(runs).where(old).values(enqueued_at=now - timedelta(days=9)))
        ended = old & runs.c.ended_at.is_not(None)
        connection.execute(update(runs).where(ended).values(ended_at=now - timedelta(days=9)))
    assert prune(engine, days=8, most=100, now=now) == 2
    assert [row["run"] for row in rows(engine, runs)] == [names[0], *names[3:]]
    assert prune(engine, days=8, most=3, now=now) == 2
    assert [row["run"] for row in rows(engine, runs)] == [names[0], *names[5:]], "one still runs"
    assert [row["run"] for row in rows(engine, attempts)] == names[5:7]
    assert prune(engine, days=8, most=3, now=now) == 0


def test_what_a_stock_worker_ran_is_an_attempt_too(
    recorder: Recorder, engine: Engine, server: JobServer, redis: Redis
) -> None:
    job = server.enqueue("engine_jobs.fail")
    queue = RQQueue("in-threads", connection=redis, serializer=JSONSerializer)
    SimpleWorker([queue], connection=redis, serializer=JSONSerializer).work(burst=True)
    recorder.work()
    server.broker.reconcile([server.registry.queue("in-threads")])
    recorder.work()
    ((run,), (spent,)) = rows(engine, runs), rows(engine, attempts)
    found = server.fetch(job.id)
    assert found.ended_at and found.attempt == 1
    assert (run["state"], run["attempt"], run["reason"]) == ("failed", 1, "by a stock tool")
    assert run["ended_at"].timestamp() == pytest.approx(found.ended_at.timestamp(), abs=CLOCKS)
    assert (spent["number"], spent["outcome"]) == (1, "failed")
    assert "ValueError: always" in spent["traceback"]
    assert run["fingerprint"]


def test_the_last_lines_of_a_run_are_recorded(
    recorder: Recorder, engine: Engine, broker: Broker, hand: Hand
) -> None:
    broker.enqueue([request_of("a", run="0001", attempts=1)])
    claim = hand.take()
    for first in (1, 151):
        texts = [f'{{"message":"{number} \\u0000 ü"}}'.encode() for number in range(150)]
        assert broker.log("a", "0001", dropped=0, lines=texts, ttl=60)
        if first == 1:
            recorder.work()
            assert len(rows(engine, line_rows)) == 150
    assert not broker.log("a", "0000", dropped=0, lines=[b"{}"], ttl=60), "of another run"
    recorder.work()
    kept = rows(engine, line_rows, run="0001")
    assert [row["number"] for row in kept] == list(range(101, 301))
    hand.end(claim, "failed")
    recorder.work()
    later = datetime.now(UTC) + timedelta(days=2)
    assert prune(engine, days=1, most=100, now=later) == 1
    assert rows(engine, line_rows) == []
    assert kept[-1]["line"].startswith('{"message":"149')


def test_an_event_that_cannot_be_read_holds_up_no_other(
    recorder: Recorder, engine: Engine, broker: Broker, redis: Redis, caplog: Any
) -> None:
    broker.enqueue([request_of("a", run="r1")])
    damaged = {"event": "failed", "job": "a", "run": "r1", "queue": "q", "attempt": "one"}
    for event in (damaged, {"event": "queued", "job": "c", "run": "r3", "type": "of tomorrow"}):
        redis.xadd(keys.EVENTS, event)
    broker.enqueue([request_of("b", run="r2")])
    assert recorder.work() == 4
    assert [(row["run"], row["state"]) for row in rows(engine, runs)] == [
        ("r1", "waiting"),
        ("r2", "waiting"),
    ]
    assert caplog.text.count("cannot be recorded") == 2


def test_an_event_that_the_database_refuses_holds_up_no_other(
    recorder: Recorder, engine: Engine, broker: Broker, redis: Redis, caplog: Any
) -> None:
    broker.enqueue([request_of(f"job-{n}", run=f"run-{n}") for n in range(5)])
    good = redis.xrevrange(keys.EVENTS, count=1)[0][1]
    redis.xadd(keys.EVENTS, {**good, b"job": "huge", b"run": "run-huge", b"attempts": 10**30})
    torn = {"event": "log", "job": "job-1", "run": "run-1", "first": 1, "oldest": 1, "lines": "["}
    redis.xadd(keys.EVENTS, torn)
    broker.enqueue([request_of("last", run="run-last")])
    assert recorder.work() == 8
    found = [row["job"] for row in rows(engine, runs)]
    assert found == [*(f"job-{n}" for n in range(5)), "last"]
    assert caplog.text.count("cannot be recorded") == 2


def test_a_text_with_nul_characters_is_recorded(
    recorder: Recorder, engine: Engine, broker: Broker, hand: Hand
) -> None:
    message = "a NUL \x00, one in words \\u0000, and both \\\x00"
    broker.enqueue([request_of("a", run="r1", attempts=1, payload='{"text":"\\u0000"}')])
    hand.end(hand.take(), "failed", error_message=message)
    recorder.work()
    ((run,), (spent,)) = rows(engine, runs), rows(engine, attempts)
    for row in (run, spent):
        assert row["error_message"].replace("\x00", "\ufffd") == message.replace("\x00", "\ufffd")
    assert run["payload"] == '{"text":"\\u0000"}'


def test_each_run_of_a_job_that_stock_rq_made_is_recorded(
    recorder: Recorder, engine: Engine, redis: Redis, broker: Broker, hand: Hand
) -> None:
    queue = RQQueue("q", connection=redis, serializer=JSONSerializer)
    for _ in range(2):
        function, arguments = "jobserver.runner.run", ("test.it", {"n": 1})
        queue.enqueue(function, args=arguments, job_id="theirs", retry=Retry(max=1))
        broker.ring(["q"])
        claim = hand.take()
        recorder.work()
        hand.end(claim, "retry")
        hand.end(hand.take())
        recorder.work()
    found = rows(engine, runs)
    assert [(row["job"], row["type"], row["state"], row["attempt"]) for row in found] == [
        ("theirs", "test.it", "completed", 2),
        ("theirs", "test.it", "completed", 4),  # stock RQ leaves our count where it is
    ]
    first, second = (row["run"] for row in found)
    spent = [(row["run"], row["number"], row["outcome"]) for row in rows(engine, attempts)]
    assert spent == [
        *((first, 1, "retried"), (first, 2, "completed")),
        *((second, 3, "retried"), (second, 4, "completed")),
    ]
