"""Runs that Redis lost are closed in the ledger, once, and only when nothing tells of their end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from redis import Redis
from sqlalchemy import Engine, RowMapping, func, insert, select, text, update

from jobserver import JobServer, Queue, losses
from jobserver.broker import Broker, keys
from jobserver.broker.disorder import missing
from jobserver.errors import RedisUnavailable
from jobserver.ids import new_id
from jobserver.ledger import dead_letters, series
from jobserver.ledger.models import attempts, outbox, position, runs
from jobserver.ledger.runs import Sought
from jobserver.losses import AGE, Losses
from jobserver.recorder import Recorder
from jobserver.retries import retry_all
from jobserver.scheduler.housekeeping import chores
from tests.hands import Hand, request_of

Q = Queue("in-threads", executor="thread")
SAY = "engine_jobs.say"


@pytest.fixture
def broker(server: JobServer) -> Broker:
    return server.broker


@pytest.fixture
def hand(broker: Broker) -> Hand:
    return Hand(broker, [Q])


@pytest.fixture
def recorder(server: JobServer, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A recorder of the test app's events; the server knows its database."""
    monkeypatch.setattr(server, "db", engine)
    recorder = Recorder(server, engine)
    yield recorder
    recorder.close()


def later() -> datetime:
    """Return a time at which all runs are old enough."""
    return datetime.now(UTC) + timedelta(seconds=AGE + 60)


@pytest.fixture
def close(server: JobServer, engine: Engine) -> Callable[..., int]:
    """Returns a look of another process."""

    def close(now: datetime | None = None) -> int:
        return Losses(server, {None: engine}).close(now=now or later(), patience=0)

    return close


def enqueue(broker: Broker, job_id: str, **more: Any) -> None:
    given = {"queue": Q.name, "type_name": SAY, "payload": '{"text":"hi"}', **more}
    assert [one.word for one in broker.enqueue([request_of(job_id, **given)])] == ["new"]


def state_of(engine: Engine, job: str) -> tuple[str, str | None]:
    """Return state and error of a job's first run."""
    with engine.connect() as connection:
        query = select(runs.c.state, runs.c.error_type).where(runs.c.job == job)
        state, error = connection.execute(query.order_by(runs.c.enqueued_at)).first() or ("", None)
    return state, error


def rows(engine: Engine) -> Sequence[RowMapping]:
    with engine.connect() as connection:
        return connection.execute(select(runs).order_by(runs.c.job)).mappings().all()


def test_what_a_flushed_redis_had_is_dead_letters_that_can_be_retried(
    server: JobServer,
    engine: Engine,
    broker: Broker,
    redis: Redis,
    hand: Hand,
    recorder: Recorder,
    close: Callable[..., int],
) -> None:
    enqueue(broker, "active")
    hand.take()
    enqueue(broker, "done")
    hand.end(hand.take())
    enqueue(broker, "waiting")
    enqueue(broker, "delayed", due="+9000000")
    enqueue(broker, "large", payload='{"text":"%s"}' % ("x" * 5000))
    recorder.work()
    redis.flushall()
    assert close(datetime.now(UTC) + timedelta(seconds=AGE - 30)) == 0, "not old enough yet"
    now = later()
    assert close(now) == 4
    found = {row["job"]: row for row in rows(engine)}
    assert found.pop("done")["state"] == "completed"
    for job, row in found.items():
        assert (row["state"], row["error_type"], row["reason"]) == ("failed", "Lost", "lost")
        assert (row["ended_at"], row["due_at"], row["settled_at"]) == (now, None, None)
        kept = "not on record: retry it with one" if job == "large" else "on record: retry it"
        assert row["error_message"].endswith(f"Its payload is {kept}")
    groups, _ = dead_letters.groups(engine, Sought())
    assert sorted(group.count for group in groups) == [1, 1, 2], "by what they were doing"
    tally = retry_all(server, Sought())
    assert (tally.enqueued, tally.refused) == (3, 1)
    recorder.work()
    assert sorted(claim.id for claim in hand.claim(threads=9)) == ["active", "delayed", "waiting"]
    left, _ = dead_letters.groups(engine, Sought())
    assert [group.example.job for group in left] == ["large"]
    (chore,) = (one for one in chores(server) if one.name == "runs that Redis lost")
    assert chore.step() == 0


def test_what_is_merely_old_and_what_stock_rq_made_is_left_alone(
    engine: Engine,
    broker: Broker,
    redis: Redis,
    hand: Hand,
    recorder: Recorder,
    close: Callable[..., int],
) -> None:
    enqueue(broker, "active")
    hand.take()
    enqueue(broker, "stock")
    redis.hdel(keys.job("stock"), "run")
    enqueue(broker, "waiting")
    enqueue(broker, "delayed", due="+9000000")
    recorder.work()
    assert close() == 0
    redis.delete(keys.job("waiting"))
    assert close() == 1
    assert state_of(engine, "waiting") == ("failed", "Lost")


def test_while_events_are_not_recorded_nothing_is_closed(
    engine: Engine,
    broker: Broker,
    redis: Redis,
    hand: Hand,
    recorder: Recorder,
    close: Callable[..., int],
) -> None:
    enqueue(broker, "done")
    recorder.work()
    hand.end(hand.take())
    assert close() == 0, "it has ended in an event that is under way"
    redis.delete(keys.job("done"))
    assert close() == 0
    enqueue(broker, "done")
    assert close() == 0, "another run has taken its place"
    recorder.work()
    assert close() == 0
    assert state_of(engine, "done") == ("completed", None)


def test_a_retry_right_after_the_look_is_no_loss(
    broker: Broker,
    hand: Hand,
    recorder: Recorder,
    close: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    enqueue(broker, "a", attempts=1)
    recorder.work()
    hand.end(hand.take(), "failed")

    def look(*asked: Any) -> Any:
        found = missing(*asked)
        if broker.retry(["a"], attempts=1) == ["retried"]:
            recorder.work()
        return found

    monkeypatch.setattr(losses, "missing", look)
    assert close() == 0


def test_a_lost_run_whose_job_was_enqueued_anew_is_no_dead_letter(
    engine: Engine,
    broker: Broker,
    redis: Redis,
    recorder: Recorder,
    close: Callable[..., int],
) -> None:
    enqueue(broker, "a")
    recorder.work()
    redis.flushall()
    enqueue(broker, "a")
    recorder.work()
    assert close() == 1
    assert state_of(engine, "a") == ("failed", "Lost")
    assert dead_letters.groups(engine, Sought())[0] == []


def test_a_lost_run_whose_job_is_being_recorded_anew_is_no_dead_letter(
    engine: Engine,
    broker: Broker,
    redis: Redis,
    recorder: Recorder,
    close: Callable[..., int],
) -> None:
    enqueue(broker, "a")
    recorder.work()
    redis.flushall()
    anew = {"run": new_id(), "state": "completed", "enqueued_at": datetime.now(UTC)}
    closing = threading.Thread(target=close)
    with engine.begin() as connection:  # as the recorder does
        connection.execute(update(position).values(events=position.c.events))
        connection.execute(insert(runs).values(dict(rows(engine)[0]) | anew))
        closing.start()
        wait_while(lambda: closing.is_alive() and not is_blocking(engine))
    closing.join()
    assert state_of(engine, "a") == ("failed", "Lost")
    assert dead_letters.groups(engine, Sought())[0] == []


def is_blocking(engine: Engine) -> bool:
    """Return whether a transaction waits for another one, as all do on SQLite that write."""
    if engine.dialect.name == "sqlite":
        return True
    with engine.connect() as connection:
        return bool(connection.scalar(text("SELECT count(*) FROM pg_locks WHERE NOT granted")))


def wait_while(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while condition():
        assert time.monotonic() < deadline


def test_two_that_look_at_once_close_a_run_once(
    engine: Engine,
    broker: Broker,
    redis: Redis,
    recorder: Recorder,
    close: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for job in ("a", "b", "c"):
        enqueue(broker, job)
    recorder.work()
    redis.flushall()
    barrier = threading.Barrier(2, timeout=30)

    def look(*asked: Any) -> Any:
        found = missing(*asked)
        barrier.wait()
        return found

    monkeypatch.setattr(losses, "missing", look)
    closed: list[int] = []
    threads = [threading.Thread(target=lambda: closed.append(close())) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(closed) == [0, 3]


def test_many_are_looked_at_some_at_a_time_and_all_in_the_end(
    server: JobServer,
    engine: Engine,
    broker: Broker,
    redis: Redis,
    recorder: Recorder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(losses, "BATCH", 3)
    monkeypatch.setattr(losses, "MOST", 2)
    for number in range(10):
        enqueue(broker, f"job-{number}", run=f"{number:023x}")
    recorder.work()
    for number in (1, 8, 9):
        redis.delete(keys.job(f"job-{number}"))
    one = Losses(server, {None: engine})
    assert one.close(patience=0) == 0, "enqueued just now, whenever that was asked for"
    assert [one.close(now=later(), patience=0) for _ in range(4)] == [1, 2, 0, 0]
    redis.delete(keys.job("job-0"))
    assert sum(one.close(now=later(), patience=0) for _ in range(3)) == 1


def test_what_waits_in_an_outbox_is_not_lost(
    server: JobServer,
    engine: Engine,
    broker: Broker,
    redis: Redis,
    recorder: Recorder,
    close: Callable[..., int],
) -> None:
    request = request_of("a", queue=Q.name, type_name=SAY)
    with engine.begin() as connection:
        damaged = {"id": "x", "created_at": datetime.now(UTC), "request": "{}"}
        connection.execute(insert(outbox).values(damaged))
        row = {"id": request.call, "created_at": datetime.now(UTC), "request": request.to_json()}
        connection.execute(insert(outbox).values(row))
    assert (close(), len(rows(engine))) == (0, 0), "not a run yet"
    broker.enqueue([request])  # and whoever pushed it is killed before the row is deleted
    recorder.work()
    redis.flushall()
    assert close() == 0, "the relay will push it once more"
    assert server.outbox.relay(engine, settle=0) == 1
    recorder.work()
    assert state_of(engine, "a") == ("waiting", None)
    assert broker.fetch("a").run_id == request.run


END = {"completed": ("completed", None), "failed": ("failed", "ValueError")}


@pytest.mark.parametrize("word", ["completed", "failed"])
def test_an_end_that_comes_after_all_is_the_truth_and_counted_once(
    engine: Engine,
    broker: Broker,
    redis: Redis,
    hand: Hand,
    recorder: Recorder,
    close: Callable[..., int],
    word: Any,
) -> None:
    enqueue(broker, "a", attempts=1)
    recorder.work()
    away = {key: redis.dump(key) for key in redis.keys("*") if key != keys.EVENTS.encode()}
    redis.flushall()
    assert close() == 1
    for key, dumped in away.items():
        redis.restore(key, 0, dumped)
    claim = hand.take()
    recorder.work()
    (row,) = rows(engine)
    assert (row["state"], row["attempt"]) == ("active", 1)
    gone = ("ended_at", "error_type", "error_message", "reason", "fingerprint", "settled_at")
    assert [row[name] for name in gone] == [None] * 6
    assert dead_letters.groups(engine, Sought())[0] == []
    hand.end(claim, word)
    recorder.work()
    assert (state_of(engine, "a"), close()) == (END[word], 0)
    with engine.connect() as connection:
        ended = ends_counted(connection)
        spent = connection.scalar(select(func.count()).select_from(attempts))
    assert (ended, spent) == (1, 0 if word == "completed" else 1)


def ends_counted(connection: Any) -> int:
    """Return how many ends are counted, ever."""
    table = series.series
    ever = table.c.minute == series.EVER
    counted = select(func.sum(table.c.n)).where(ever, table.c.what.in_(["completed", "failed"]))
    return int(connection.scalar(counted) or 0)


def test_a_redis_that_does_not_answer_or_is_a_replica_loses_nothing(
    engine: Engine,
    broker: Broker,
    redis: Redis,
    recorder: Recorder,
    close: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    enqueue(broker, "a")
    recorder.work()
    redis.delete(keys.job("a"))
    redis.replicaof("127.0.0.1", 1)
    try:
        with pytest.raises(RedisUnavailable):
            close()
    finally:
        redis.replicaof("NO", "ONE")
    assert state_of(engine, "a") == ("waiting", None)
    assert close() == 1
