"""Our worker under `rq worker`: real processes, really killed."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter

import psutil
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
    first = server.enqueue("engine_jobs.add", {"a": 1})
    wait_until(lambda: server.fetch(first.id).is_ended)
    job = server.enqueue("engine_jobs.add", {"a": 1}, delay=1)
    wait_until(lambda: server.fetch(job.id).is_ended)
    done = server.fetch(job.id)
    assert done.created_at and done.started_at
    assert 1 <= (done.started_at - done.created_at).total_seconds() < 6


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


def test_a_worker_shows_its_slots_and_all_it_runs(
    server: JobServer, start_worker: StartWorker
) -> None:
    jobs = [server.enqueue("engine_jobs.linger", {"seconds": 5}) for _ in range(2)]
    start_worker(WORKER_PROCESSES="2", WORKER_CONCURRENCY="7")

    def runs_both() -> bool:
        return any(len(worker.jobs) == len(jobs) for worker in server.workers())

    wait_until(runs_both)
    (worker,) = server.workers()
    assert (worker.process_slots, worker.thread_slots) == (2, 7)
    assert {job.id for job in worker.jobs} == {job.id for job in jobs}
    assert {(job.queue, job.attempt) for job in worker.jobs} == {("in-processes", 1)}
    assert set(worker.queues) == set(server.registry.queues)
