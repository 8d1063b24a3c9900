"""Our worker under `rq worker`: real processes, really killed."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest
from redis import Redis

from jobserver import JobServer
from jobserver.broker import keys
from tests.acceptance.conftest import StartWorker, ended, wait_until
from tests.engine_jobs import journal


def test_rq_worker_runs_jobs_of_both_executors(
    server: JobServer, start_worker: StartWorker
) -> None:
    sums = server.enqueue_many("engine_jobs.add", [{"a": n, "b": 1} for n in range(50)])
    slow = server.enqueue("engine_jobs.linger", {"seconds": 0})
    worker = start_worker("--burst")
    assert worker.wait(timeout=20) == 0
    assert [server.fetch(job.id).result for job in sums] == [n + 1 for n in range(50)]
    assert server.fetch(slow.id).result not in (None, worker.pid), "ran in a child process"


@pytest.mark.parametrize(
    ("how", "error_type", "reason"),
    [
        ("exit", "ProcessDied", "exit code 0"),
        ("kill", "ProcessDied", "SIGKILL"),
        ("base", "BaseException", "unusual"),
        ("object", "TypeError", "not JSON serializable"),
        ("sleep", "JobTimeout", "longer than its timeout"),
        ("swallow", "JobTimeout", "longer than 1 s"),
    ],
)
def test_a_job_that_ends_unusually_fails_with_its_reason(
    server: JobServer, start_worker: StartWorker, how: str, error_type: str, reason: str
) -> None:
    bad = server.enqueue("engine_jobs.misbehave", {"how": how})
    start_worker(WORKER_PROCESSES="1")
    wait_until(lambda: server.fetch(bad.id).is_ended, seconds=12)
    job = server.fetch(bad.id)
    assert (job.status, job.error_type) == ("failed", error_type)
    assert reason in (job.error_message or "")
    after = server.enqueue("engine_jobs.linger", {"seconds": 0})
    wait_until(lambda: server.fetch(after.id).status == "completed", what="the slot works on")


def test_a_job_that_crashes_three_times_is_poison(
    server: JobServer, start_worker: StartWorker
) -> None:
    bad = server.enqueue("engine_jobs.crash")
    start_worker(WORKER_PROCESSES="2")
    wait_until(lambda: server.fetch(bad.id).is_ended)
    job = server.fetch(bad.id)
    assert (job.status, job.error_type, job.attempt) == ("failed", "Poison", 3)
    assert "SIGSEGV" in (job.error_message or "")
    assert len(journal()) == 3


def test_jobs_beyond_their_timeout_in_threads_are_reported_and_their_worker_replaced(
    server: JobServer, start_worker: StartWorker
) -> None:
    worker = start_worker("in-threads", DRAIN_SECONDS="0.5")
    ways = ("object", "base", "loop", "swallow", "sleep")
    jobs = {how: server.enqueue("engine_jobs.hang", {"how": how}) for how in ways}
    stops, stays = (server.enqueue("engine_jobs.hang_twice", {"how": h}) for h in ("loop", "sleep"))
    wait_until(lambda: ended(server, list(jobs.values())))
    done = {how: server.fetch(job.id) for how, job in jobs.items()}
    assert {how: (job.status, job.error_type) for how, job in done.items()} == {
        "object": ("failed", "TypeError"),
        "base": ("failed", "BaseException"),
        "loop": ("failed", "JobTimeout"),
        "swallow": ("failed", "JobTimeout"),
        "sleep": ("failed", "JobTimeout"),
    }
    for job in (done["loop"], done["swallow"], done["sleep"]):
        assert job.started_at and job.ended_at
        assert 1 <= (job.ended_at - job.started_at).total_seconds() < 3
    wait_until(lambda: server.fetch(stops.id).is_ended, what="a thread that stops is free again")
    assert server.fetch(stops.id).attempt == 2
    assert server.fetch(stays.id).status == "active", "it runs on: its retry must wait"
    assert worker.wait(timeout=15) == 3
    waits = server.fetch(stays.id)
    assert (waits.status, waits.attempt, waits.error_type) == ("delayed", 1, "JobTimeout")
    assert len([line for line in journal() if line[3] == "swallowed"]) == 1


def test_a_frozen_worker_ends_itself(
    server: JobServer, start_worker: StartWorker, tmp_path: Path
) -> None:
    server.enqueue("engine_jobs.freeze")
    worker = start_worker("in-threads", LEASE_SECONDS="1")
    assert worker.wait(timeout=25) == 1
    assert "in freeze" in (tmp_path / "worker-0.log").read_text(), "it says where it stood"


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA counts little elsewhere")
def test_a_job_cannot_take_more_memory_than_its_queue_allows(
    server: JobServer, start_worker: StartWorker
) -> None:
    small, large = (server.enqueue("engine_jobs.fill", {"mib": mib}) for mib in (20, 2000))
    after = server.enqueue("engine_jobs.fill", {"mib": 20})
    start_worker("limited", WORKER_PROCESSES="1")
    wait_until(lambda: ended(server, [small, large, after]))
    assert [server.fetch(job.id).status for job in (small, large, after)] == [
        *("completed", "failed", "completed"),
    ]
    job = server.fetch(large.id)
    assert job.error_type == "MemoryError"
    assert job.error_message == "beyond its queue's memory_limit of 300 MiB"


def test_jobs_of_a_killed_worker_run_once_more(
    server: JobServer, start_worker: StartWorker
) -> None:
    jobs = server.enqueue_many("engine_jobs.linger", [{"seconds": 0.3}] * 6)
    doomed = start_worker(WORKER_PROCESSES="2")
    wait_until(lambda: len(journal()) >= 2, what="two jobs have begun")
    children = psutil.Process(doomed.pid).children(recursive=True)
    doomed.send_signal(signal.SIGKILL)
    killed_at = time.monotonic()
    running = {job.id for job in jobs if server.fetch(job.id).status == "active"}
    psutil.wait_procs(children, timeout=5)
    assert not [child for child in children if child.is_running()], "children die with the worker"
    start_worker(WORKER_PROCESSES="2")
    wait_until(lambda: ended(server, jobs), seconds=30)
    assert time.monotonic() - killed_at < 30
    assert {server.fetch(job.id).status for job in jobs} == {"completed"}
    begun = Counter(job_id for job_id, _, _, text in journal() if text == "begin")
    assert all(begun[job.id] <= (2 if job.id in running else 1) for job in jobs)


def test_a_terminated_worker_puts_unfinished_jobs_back_unspent(
    server: JobServer, start_worker: StartWorker, redis: Redis
) -> None:
    job = server.enqueue("engine_jobs.linger", {"seconds": 30})
    worker = start_worker(DRAIN_SECONDS="0.5")
    wait_until(lambda: len(journal()) == 1)
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(timeout=10) == 0
    back = server.fetch(job.id)
    assert (back.status, back.attempt) == ("waiting", 0)
    assert redis.zcard(keys.LEASES) == 0


def test_a_terminated_worker_finishes_what_runs(
    server: JobServer, start_worker: StartWorker
) -> None:
    first, second = server.enqueue_many("engine_jobs.linger", [{"seconds": 1}] * 2)
    worker = start_worker(WORKER_PROCESSES="1")
    wait_until(lambda: len(journal()) == 1)
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(timeout=10) == 0
    assert server.fetch(first.id).status == "completed"
    assert server.fetch(second.id).status == "waiting"


def test_a_stopped_worker_cannot_record_a_run_that_was_taken_over(
    server: JobServer, start_worker: StartWorker
) -> None:
    job = server.enqueue("engine_jobs.linger", {"seconds": 1})
    frozen = start_worker()
    wait_until(lambda: len(journal()) == 1)
    frozen.send_signal(signal.SIGSTOP)
    start_worker()
    wait_until(lambda: server.fetch(job.id).status == "completed", seconds=30)
    winner = server.fetch(job.id).worker
    frozen.send_signal(signal.SIGCONT)
    again = server.enqueue("engine_jobs.add", {"a": 1})
    wait_until(lambda: server.fetch(again.id).is_ended)
    assert server.fetch(job.id).worker == winner
    assert server.fetch(job.id).attempt == 2


def test_delayed_jobs_come_due_within_a_second(
    server: JobServer, start_worker: StartWorker
) -> None:
    start_worker("in-threads")
    job = server.enqueue("engine_jobs.add", {"a": 1}, delay=1)
    wait_until(lambda: server.fetch(job.id).is_ended)
    done = server.fetch(job.id)
    assert done.created_at and done.started_at
    assert 1 <= (done.started_at - done.created_at).total_seconds() < 2.5


def test_a_paused_queue_starts_nothing(server: JobServer, start_worker: StartWorker) -> None:
    server.pause("in-threads")
    held = server.enqueue("engine_jobs.add", {"a": 1})
    other = server.enqueue("engine_jobs.linger", {"seconds": 0})
    start_worker()
    wait_until(lambda: server.fetch(other.id).is_ended)
    assert server.fetch(held.id).status == "waiting"
    server.resume("in-threads")
    wait_until(lambda: server.fetch(held.id).is_ended)


def test_a_worker_outlives_redis(
    server: JobServer, start_worker: StartWorker, redis: Redis
) -> None:
    job = server.enqueue("engine_jobs.linger", {"seconds": 1})
    worker = start_worker()
    wait_until(lambda: len(journal()) == 1)
    pid = redis.info("server")["process_id"]
    os.kill(pid, signal.SIGSTOP)
    try:
        wait_until(lambda: len(journal()) == 2, what="the job goes on without Redis")
    finally:
        os.kill(pid, signal.SIGCONT)
    wait_until(lambda: server.fetch(job.id).is_ended, seconds=15)
    done = server.fetch(job.id)
    assert (done.status, done.attempt) == ("completed", 1)
    assert worker.poll() is None
    assert len(journal()) == 2


def test_an_unknown_queue_is_refused_in_one_line(
    server: JobServer, start_worker: StartWorker
) -> None:
    worker = start_worker("no-such-queue")
    assert worker.wait(timeout=10) == 1
