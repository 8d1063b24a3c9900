"""Stock RQ 3 beside ours: its tools read our jobs, run them, and cannot break our worker."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from redis import Redis
from rq import Queue as RQQueue
from rq import SimpleWorker
from rq.job import Job as RQJob
from rq.job import JobStatus
from rq.registry import (
    FailedJobRegistry,
    FinishedJobRegistry,
    StartedJobRegistry,
    clean_registries,
)
from rq.results import Result
from rq.scheduler import RQScheduler
from rq.serializers import JSONSerializer

from jobserver import JobServer
from jobserver.broker import keys
from jobserver.broker.job import traceback_text
from jobserver.testing import work
from tests import engine_jobs
from tests.engine_jobs import THREADS, journal
from tests.hands import Hand, events, hash_of, places, story, traces

ROOT = Path(__file__).parents[2]
ORIGINS = THREADS.origins

RunRq = Callable[..., str]


@pytest.fixture
def hand(server: JobServer) -> Hand:
    return Hand(server.broker, [THREADS])


@pytest.fixture
def rq(server: JobServer, valkey: str) -> RunRq:
    """Return a function that runs the stock `rq` and returns what it prints."""

    def run(*arguments: str, **environ: str) -> str:
        done = subprocess.run(
            [str(Path(sys.executable).parent / "rq"), *arguments],
            cwd=ROOT,
            env={
                **{n: value for n, value in os.environ.items() if not n.startswith("RQ_")},
                "PYTHONPATH": str(ROOT),
                "REDIS_URL": valkey,
                "RQ_REDIS_URL": valkey,
                "JOBSERVER_APP": "tests.engine_app:create_app",
                **environ,
            },
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    return run


def theirs(redis: Redis, job_id: str) -> RQJob:
    """Return a job as stock RQ reads it."""
    return RQJob.fetch(job_id, connection=redis, serializer=JSONSerializer)


def queue_of(redis: Redis, origin: str = "in-threads") -> RQQueue:
    return RQQueue(origin, connection=redis, serializer=JSONSerializer)


def look_at_everything(redis: Redis) -> None:
    """Read as RQ's tools do: each count cleans the registry first."""
    for origin in ORIGINS:
        queue = queue_of(redis, origin)
        assert queue.count >= 0
        for registry in (
            *(queue.started_job_registry, queue.finished_job_registry),
            *(queue.failed_job_registry, queue.scheduled_job_registry),
            *(queue.canceled_job_registry, queue.deferred_job_registry),
        ):
            assert registry.count >= 0
            registry.get_job_ids()
        clean_registries(queue, exception_handlers=None)


def test_stock_rq_reads_results_and_attempts(server: JobServer, redis: Redis) -> None:
    good = server.enqueue("engine_jobs.add", {"a": 1, "b": 2}, priority="low")
    bad = server.enqueue("engine_jobs.fail", timeout=77)
    before = datetime.now(UTC)
    work()
    job = theirs(redis, good.id)
    result = job.latest_result()
    assert result is not None
    assert (result.type, result.return_value) == (Result.Type.SUCCESSFUL, 3)
    assert abs((result.created_at - before).total_seconds()) < 60
    assert result.execution_id == hash_of(redis, good.id)["exec"]
    assert (job.is_finished, job.origin, job.func_name) == (
        *(True, "in-threads:low", "jobserver.runner.run"),
    )
    assert job.args == ["engine_jobs.add", {"a": 1, "b": 2}]
    assert job.started_at is not None
    assert job.ended_at is not None
    assert job.started_at <= job.ended_at

    job = theirs(redis, bad.id)
    results = job.results()
    assert [found.type for found in results] == [Result.Type.FAILED] * 3
    assert "ValueError: always" in (results[0].exc_string or "")
    assert (job.is_failed, job.timeout) == (True, 77)
    assert FailedJobRegistry("in-threads", connection=redis).get_job_ids() == [bad.id]
    assert FinishedJobRegistry("in-threads:low", connection=redis).get_job_ids() == [good.id]


def test_rq_info_counts_our_queues(server: JobServer, redis: Redis, rq: RunRq, hand: Hand) -> None:
    server.enqueue_many("engine_jobs.add", [{"a": n} for n in range(3)])
    server.enqueue("engine_jobs.add", {"a": 1}, priority="high")
    server.enqueue("engine_jobs.fail", delay=3600)
    claim = hand.take()
    before = hash_of(redis, claim.id)
    numbers = rq("info", "--raw", "--only-queues")
    assert "queue in-threads 3" in numbers
    assert "queue in-threads:high 0" in numbers
    ours = rq("info", RQ_CONNECTION_CLASS="jobserver.broker.Connection", RQ_REDIS_URL="")
    assert "in-threads" in ours
    assert hash_of(redis, claim.id) == before
    assert places(redis, claim.id) == ["wip:in-threads:high"]


def test_a_stock_worker_runs_our_jobs(server: JobServer, redis: Redis, rq: RunRq) -> None:
    low = server.enqueue("engine_jobs.named", {"name": "low", "value": 1}, priority="low")
    high = server.enqueue("engine_jobs.named", {"name": "high", "value": 2}, priority="high")
    steps = server.enqueue("engine_jobs.steps", {"count": 5})
    bad = server.enqueue("engine_jobs.fail")
    output = rq("worker", "--burst", "--serializer", "json", *ORIGINS, "in-processes")
    assert "Traceback" in output, "of the job that fails"
    assert [line[3] for line in journal()] == ["value=2", "fail", "value=1"]
    assert [server.fetch(job.id).result for job in (low, high, steps)] == [1, 2, 5]
    failed = server.fetch(bad.id)
    assert (failed.status, failed.raw_status) == ("failed", "failed")
    latest = theirs(redis, bad.id).latest_result()
    assert latest is not None
    assert "ValueError: always" in (latest.exc_string or "")
    assert [places(redis, job.id) for job in (low, high, bad)] == [
        *(["finished:in-threads:low"], ["finished:in-threads:high"], ["failed:in-threads"]),
    ]

    assert server.broker.reconcile([THREADS]) == 4
    told = {event["job"]: event for event in events(redis) if event["event"] != "queued"}
    assert {job_id: event["event"] for job_id, event in told.items()} == {
        **{low.id: "completed", high.id: "completed", steps.id: "completed"},
        **{bad.id: "failed"},
    }
    assert {event["reason"] for event in told.values()} == {"by a stock tool"}
    assert told[low.id]["run"] == low.run_id
    assert {event["attempt"] for event in told.values()} == {"1"}
    assert traceback_text({b"exc_string": told[bad.id]["traceback"].encode()}) == latest.exc_string

    again = server.enqueue("engine_jobs.named", {"name": "low", "value": 3})
    assert not again.duplicate
    assert server.retry(bad.id).status == "waiting"
    assert {job.status for job in work()} == {"completed", "failed"}
    assert server.fetch(low.id).result == 3
    assert server.broker.reconcile([THREADS]) == 0


def test_a_stock_worker_and_ours_share_a_queue_and_run_each_job_once(
    server: JobServer, redis: Redis, rq: RunRq, hand: Hand
) -> None:
    jobs = server.enqueue_many("engine_jobs.named", [{"name": str(n)} for n in range(400)])
    arguments = ("worker", "--burst", "--serializer", "json", *ORIGINS)
    classes = ("rq.worker.Worker", "rq.SimpleWorker")
    stock = [
        threading.Thread(target=rq, args=arguments, kwargs={"RQ_WORKER_CLASS": name})
        for name in classes
    ]
    for thread in stock:
        thread.start()
    while not journal():  # until one of them works
        assert any(thread.is_alive() for thread in stock)
        stock[0].join(0.01)
    ours = 0
    while claims := hand.claim(threads=1):
        assert hand.end(*claims) == "ok"
        ours += 1
    for thread in stock:
        thread.join()
    assert ours > 0
    assert len(journal()) > 0
    assert ours + len(journal()) == len(jobs)
    assert redis.zcard("rq:finished:in-threads") == len(jobs)
    assert not redis.keys("rq:wip:*")
    assert {job.status for job in server.broker.fetch_many([j.id for j in jobs]) if job} == {
        "completed"
    }


def test_readers_that_clean_change_nothing_of_running_jobs(
    server: JobServer, redis: Redis, hand: Hand
) -> None:
    server.enqueue_many("engine_jobs.fail", [{}] * 5, timeout=1)
    delayed = server.enqueue("engine_jobs.add", {"a": 1}, delay=3600)
    claims = hand.claim(threads=5)
    redis.zadd(keys.LEASES, {claim.entry: 1 for claim in claims})  # even overdue ones are ours
    before = {key: redis.dump(key) for key in redis.scan_iter("*job*")}
    look_at_everything(redis)
    queues = [queue_of(redis, origin) for origin in ORIGINS]
    stock = SimpleWorker(queues, connection=redis, serializer=JSONSerializer)
    stock.run_maintenance_tasks()
    for origin in ORIGINS:
        registry = StartedJobRegistry(origin, connection=redis, serializer=JSONSerializer)
        registry.cleanup(datetime.now(UTC).timestamp() + 10 * 365 * 86400)
    assert {key: redis.dump(key) for key in redis.scan_iter("*job*")} == before
    assert places(redis, delayed.id) == ["scheduled:in-threads"]
    assert [hand.end(claim) for claim in claims] == ["ok"] * 5


def test_eight_readers_change_nothing_while_jobs_run(
    server: JobServer, redis: Redis, hand: Hand
) -> None:
    over = threading.Event()
    errors: list[BaseException] = []

    def read() -> None:
        connection = Redis.from_url(server.config.redis_url)
        try:
            while not over.is_set():
                look_at_everything(connection)
        except BaseException as error:
            errors.append(error)
        finally:
            connection.close()

    readers = [threading.Thread(target=read) for _ in range(8)]
    for reader in readers:
        reader.start()
    try:
        jobs = server.enqueue_many("engine_jobs.add", [{"a": n} for n in range(200)])
        ended = 0
        while claims := hand.claim(threads=5):
            for number, claim in enumerate(claims):
                word = "retry" if claim.attempt == 1 and number == 0 else "completed"
                assert hand.end(claim, word, delay=0) == "ok"  # type: ignore[arg-type]
                ended += word == "completed"
    finally:
        over.set()
        for reader in readers:
            reader.join()
    assert errors == []
    assert ended == len(jobs)
    names = Counter(story(redis))
    assert names["queued"] == names["completed"] == len(jobs)
    assert names["claimed"] == len(jobs) + names["failed"]
    assert set(names) == {"queued", "claimed", "completed", "failed"}


def test_a_failed_job_that_stock_rq_requeues_runs_again(
    server: JobServer, redis: Redis, rq: RunRq, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = (server.enqueue("engine_jobs.fail") for _ in range(2))
    work()
    rq("requeue", "--queue", "in-threads", "--serializer", "json", one.id)
    assert places(redis, one.id) == ["queue:in-threads"]
    FailedJobRegistry("in-threads", connection=redis, serializer=JSONSerializer).requeue(two.id)
    (first, second) = work()
    assert {first.status, second.status} == {"failed"}
    assert (first.attempt, second.attempt) == (4, 4), "one more, by hand, and no retry"
    assert sorted(places(redis, one.id) + places(redis, two.id)) == ["failed:in-threads"] * 2
    assert redis.ttl(keys.job(one.id)) > 0
    assert len(theirs(redis, one.id).results()) == 4


def test_a_requeued_job_does_not_expire_while_it_runs(
    server: JobServer, redis: Redis, hand: Hand
) -> None:
    job = server.enqueue("engine_jobs.fail_slowly")
    hand.end(hand.take(), "failed")
    redis.expire(keys.job(job.id), 100)
    FailedJobRegistry("in-threads", connection=redis, serializer=JSONSerializer).requeue(job.id)
    claim = hand.take()
    assert redis.ttl(keys.job(job.id)) == -1
    hand.end(claim, "retry", delay=10**6)
    assert redis.ttl(keys.job(job.id)) == -1


@pytest.mark.parametrize("delay", [None, 3600])
def test_a_waiting_job_that_stock_rq_cancels_never_runs(
    server: JobServer, redis: Redis, delay: float | None
) -> None:
    job = server.enqueue("engine_jobs.named", {"name": "a"}, delay=delay)
    theirs(redis, job.id).cancel()
    assert server.fetch(job.id).status == "canceled"
    assert places(redis, job.id) == ["canceled:in-threads"]
    assert work() == journal() == []
    assert server.broker.reconcile([THREADS]) == 1
    assert server.broker.reconcile([THREADS]) == 0
    assert story(redis, job.id)[-1] == "canceled"
    assert not server.enqueue("engine_jobs.named", {"name": "a"}).duplicate
    assert [done.status for done in work()] == ["completed"]
    assert places(redis, job.id) == ["finished:in-threads"]


def test_a_running_job_that_stock_rq_cancels_cannot_come_back(
    server: JobServer, redis: Redis, hand: Hand
) -> None:
    job = server.enqueue("engine_jobs.named", {"name": "a"})
    claim = hand.take()
    theirs(redis, job.id).cancel()
    assert hand.end(claim, value=1) == "lost"
    assert server.fetch(job.id).status == "canceled"
    assert places(redis, job.id) == ["canceled:in-threads"]
    assert not redis.keys("rq:execution*")
    assert not redis.exists(keys.LEASES, keys.HELD, f"rq:worker:{hand.name}:executions")
    again = server.enqueue("engine_jobs.named", {"name": "a"})
    assert again.run_id != job.run_id
    assert hand.end(hand.take(), value=2) == "ok"
    assert server.fetch(job.id).result == 2


def test_a_job_that_stock_rq_stopped_counts_as_canceled(server: JobServer, redis: Redis) -> None:
    job = server.enqueue("engine_jobs.add", {"a": 1})
    redis.delete("rq:queue:in-threads")
    ours = theirs(redis, job.id)
    ours.set_status(JobStatus.STOPPED)  # as its worker does on `send_stop_job_command`
    FailedJobRegistry("in-threads", connection=redis, serializer=JSONSerializer).add(ours, 100)
    found = server.fetch(job.id)
    assert (found.status, found.raw_status) == ("canceled", "stopped")
    assert server.broker.reconcile([THREADS]) == 1
    assert story(redis) == ["queued", "canceled"]
    server.retry(job.id)
    assert places(redis, job.id) == ["queue:in-threads"]
    assert [done.result for done in work()] == [1]


@pytest.mark.parametrize("moment", ["waiting", "delayed", "running", "ended"])
def test_a_job_that_stock_rq_deletes_is_gone_and_breaks_nothing(
    server: JobServer, redis: Redis, hand: Hand, moment: str
) -> None:
    delay = 3600 if moment == "delayed" else None
    job = server.enqueue("engine_jobs.named", {"name": "victim"}, delay=delay)
    claim = hand.take() if moment in ("running", "ended") else None
    if moment == "ended" and claim:
        hand.end(claim)
    theirs(redis, job.id).delete()
    if moment == "running" and claim:
        assert server.broker.progress(job.id, claim.exec, percent=1, message="") == "lost"
        assert server.broker.renew([claim.entry], lease=15) == (set(), set())
        assert hand.end(claim) == "lost"
    assert not redis.exists(keys.job(job.id))
    assert traces(redis, job.id) == []
    assert hand.claim() == []
    again = server.enqueue("engine_jobs.named", {"name": "victim", "value": 2})
    assert not again.duplicate
    assert hand.end(hand.take(), value=2) == "ok"
    assert server.fetch(job.id).result == 2
    assert not redis.exists(keys.LEASES, keys.HELD, f"rq:worker:{hand.name}:executions")


def test_a_queue_that_stock_rq_empties_goes_on(server: JobServer, redis: Redis) -> None:
    server.enqueue_many("engine_jobs.add", [{"a": n} for n in range(5)])
    assert queue_of(redis).empty() == 5
    assert server.counts()["in-threads"]["waiting"] == 0
    queue_of(redis).delete()
    server.enqueue("engine_jobs.add", {"a": 7})
    assert [queue.name for queue in RQQueue.all(connection=redis)] == ["in-threads"]
    assert [job.result for job in work()] == [7]


def test_stock_rqs_scheduler_may_move_our_delayed_jobs(server: JobServer, redis: Redis) -> None:
    job = server.enqueue("engine_jobs.named", {"name": "a", "value": 5}, delay=3600)
    redis.zadd("rq:scheduled:in-threads", {job.id: 1})
    scheduler = RQScheduler(["in-threads"], connection=redis, serializer=JSONSerializer)
    scheduler.acquire_locks()
    scheduler.enqueue_scheduled_jobs()
    scheduler.release_locks()
    assert places(redis, job.id) == ["queue:in-threads"]
    assert [done.result for done in work()] == [5]
    assert len(journal()) == 1


def test_what_stock_rq_enqueues_by_our_function_runs(server: JobServer, redis: Redis) -> None:
    job = queue_of(redis).enqueue("jobserver.runner.run", "engine_jobs.add", {"a": 2, "b": 3})
    (done,) = work()
    assert (done.id, done.type, done.status, done.result) == (
        *(job.id, "engine_jobs.add", "completed", 5),
    )
    assert job.latest_result().return_value == 5  # type: ignore[union-attr]


def test_code_that_stock_rq_names_never_runs(server: JobServer, redis: Redis) -> None:
    job = queue_of(redis).enqueue("tests.engine_jobs.note", "it ran")
    pickled = RQQueue("in-threads", connection=redis).enqueue(engine_jobs.note, "it ran")
    work()
    assert journal() == []
    assert server.fetch(job.id).status == "delayed", "a later release may know it"
    found = server.fetch(pickled.id)
    assert (found.status, found.error_type, found.payload) == ("failed", "Unreadable", None)


def test_a_job_with_a_status_of_the_future_stops_nobody(server: JobServer, redis: Redis) -> None:
    odd = server.enqueue("engine_jobs.add", {"a": 1})
    redis.hset(keys.job(odd.id), "status", "paused_by_release_9")
    even = server.enqueue("engine_jobs.add", {"a": 2})
    assert [job.id for job in work()] == [even.id]
    assert server.fetch(odd.id).raw_status == "paused_by_release_9"
