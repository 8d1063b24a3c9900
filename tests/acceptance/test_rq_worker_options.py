"""The options of `rq worker` and `flask jobs worker`, and RQ's commands to a running worker."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from redis import Redis
from rq import Queue as RQQueue
from rq.command import (
    send_kill_horse_command,
    send_shutdown_command,
    send_stop_job_command,
)
from rq.job import Callback
from rq.serializers import JSONSerializer
from rq.suspension import resume, suspend
from rq.worker import Worker as RQWorker

from jobserver import JobServer
from tests.acceptance.conftest import ROOT, StartWorker, ended, wait_until
from tests.engine_jobs import journal

pytestmark = pytest.mark.alone


def test_the_options_of_rq_worker_mean_what_they_say(
    server: JobServer, redis: Redis, start_worker: StartWorker, tmp_path: Path
) -> None:
    bad = server.enqueue("engine_jobs.discard", priority="high")
    jobs = server.enqueue_many("engine_jobs.add", [{"a": number} for number in range(5)])
    pid = tmp_path / "pid"
    worker = start_worker(
        *("--burst", "--max-jobs", "3", "--name", "ada", "--worker-ttl", "77"),
        *("--log-format", "LOG %(asctime)s %(levelname)s %(message)s", "--date-format", "AT"),
        *("--pid", str(pid), "--exception-handler", "tests.engine_jobs.on_exception"),
        *("--results-ttl", "5", "--dequeue-strategy", "random", "-d", "in-threads"),
        WORKER_CONCURRENCY="1",
    )
    wait_until(lambda: redis.exists("rq:worker:ada") or worker.poll() is not None)
    assert worker.wait(timeout=20) == 0
    assert pid.read_text() == str(worker.pid)
    assert [server.fetch(job.id).status for job in (bad, *jobs)] == [
        *("failed", "completed", "completed", "waiting", "waiting", "waiting"),
    ]
    assert [line[3] for line in journal()] == [f"handled {bad.id} no use"]
    log = (tmp_path / "worker-0.log").read_text()
    for option in ("results-ttl 5", "dequeue-strategy random", "disable-default-exception-handler"):
        assert f"LOG AT WARNING --{option}" in log
    assert "LOG AT INFO Queue Worker is now running: ada on in-threads" in log
    assert f"LOG AT ERROR Job {bad.id} failed in queue in-threads, attempt 1 of 3" in log
    line = rf"LOG AT INFO Job {jobs[1].id} completed in queue in-threads in \d+ ms: 1\n"
    assert re.search(line, log)
    assert " active in queue" not in log
    assert not redis.sismember("rq:workers", "rq:worker:ada")


@pytest.mark.parametrize(
    ("option", "seen", "unseen"),
    [
        ("--verbose", r"DEBUG Job \S+ active in queue in-threads", "no such line"),
        ("--quiet", r"ERROR Job \S+ failed", "INFO"),
    ],
)
def test_a_worker_logs_as_much_as_it_is_told(
    server: JobServer,
    start_worker: StartWorker,
    tmp_path: Path,
    option: str,
    seen: str,
    unseen: str,
) -> None:
    server.enqueue("engine_jobs.discard")
    long = server.enqueue("engine_jobs.say", {"text": "x" * 500})
    until = ("--burst",) if option == "--verbose" else ("--max-idle-time", "1")
    worker = start_worker(option, *until, "--log-format", "%(levelname)s %(message)s", "in-threads")
    assert worker.wait(timeout=20) == 0, "it ends by itself when idle"
    log = (tmp_path / "worker-0.log").read_text()
    assert re.search(seen, log)
    assert unseen not in log
    if option == "--verbose":
        assert re.search(rf'{long.id} completed .*: "x{{59}}… \(502 bytes\)', log)


OFTEN = """
import jobserver.worker.worker as module
module.STATISTICS = 0.0
module.Worker(["default"]).work(max_idle_time=1)
"""


def test_a_worker_tells_its_statistics(server: JobServer) -> None:
    server.enqueue_many("engine_jobs.add", [{"a": number} for number in range(5)])
    server.enqueue("engine_jobs.discard")
    server.enqueue("engine_jobs.snooze", {"seconds": 3600})
    done = subprocess.run(
        [sys.executable, "-c", OFTEN], cwd=ROOT, capture_output=True, text=True, timeout=30
    )
    assert "Worker statistics: 5 completed, 1 failed, 1 put off, 0 running" in done.stderr


def test_flask_jobs_worker_takes_queues_concurrency_and_a_number_of_jobs(
    server: JobServer, redis: Redis
) -> None:
    jobs = server.enqueue_many("engine_jobs.add", [{"a": number} for number in range(5)])
    other = server.enqueue("misbehaving_jobs.fill", {"mib": 1})
    done = subprocess.run(
        [
            *(str(Path(sys.executable).parent / "flask"), "--app", "tests.engine_app:create_app"),
            *("jobs", "worker", "--queues", "in-threads,keeps-three", "--concurrency", "2"),
            *("--max-jobs", "4"),
        ],
        cwd=ROOT,
        env=dict(os.environ),
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 0, done.stderr
    assert "is now running" in done.stderr
    assert "on in-threads, keeps-three" in done.stderr
    counts = server.counts()
    assert (counts["in-threads"]["completed"], counts["in-threads"]["waiting"]) == (4, 1)
    assert server.fetch(other.id).status == "waiting"
    runner = server.app.test_cli_runner()
    kept = runner.invoke(args=["jobs", "clean", "in-threads"])
    assert kept.output == "0 jobs purged from in-threads\n"
    gone = runner.invoke(args=["jobs", "clean", "in-threads", "--hours", "0"])
    assert gone.output == "4 jobs purged from in-threads\n"
    assert redis.zcard("rq:finished:in-threads") == 0
    assert server.fetch(jobs[4].id).status == "waiting"
    wrong = runner.invoke(args=["jobs", "clean", "no-such-queue"])
    assert wrong.exit_code == 1
    assert "No queue is called 'no-such-queue'" in wrong.output


def test_a_worker_obeys_rqs_commands(
    server: JobServer, redis: Redis, start_worker: StartWorker
) -> None:
    suspend(redis)
    held = server.enqueue("engine_jobs.add", {"a": 1})
    rq = RQQueue("in-processes", connection=redis, serializer=JSONSerializer)
    stops = rq.enqueue(
        "jobserver.runner.run",
        args=("engine_jobs.linger", {"seconds": 60}),
        on_stopped=Callback("tests.engine_jobs.on_stopped"),
    )
    killed = server.enqueue("engine_jobs.linger_once", {"seconds": 60})
    server.pause("in-processes")
    resume(redis)  # else `rq worker` does not start
    worker = start_worker("--name", "bob", "--worker-ttl", "77", WORKER_PROCESSES="2")
    wait_until(lambda: server.fetch(held.id).is_ended)
    suspend(redis)
    wait_until(lambda: redis.hget("rq:worker:bob", "state") == b"suspended")
    server.resume("in-processes")
    later = server.enqueue("engine_jobs.add", {"a": 2})
    beat = redis.hget("rq:worker:bob", "last_heartbeat")
    wait_until(lambda: redis.hget("rq:worker:bob", "last_heartbeat") != beat)
    assert 77 < redis.ttl("rq:worker:bob") <= 137
    assert server.fetch(later.id).status == server.fetch(stops.id).status == "waiting"
    resume(redis)
    wait_until(lambda: server.fetch(later.id).is_ended)
    wait_until(lambda: len(journal()) == 2)
    bob = RQWorker.find_by_key("rq:worker:bob", connection=redis, serializer=JSONSerializer)
    assert bob is not None
    wait_until(lambda: bob.get_current_executions(refresh=True), what="RQ's readers see a job")
    assert bob.get_current_job_id() in (stops.id, killed.id)
    assert redis.hget("rq:worker:bob", "state") == b"busy"
    send_stop_job_command(redis, stops.id, serializer=JSONSerializer)
    wait_until(lambda: server.fetch(stops.id).is_ended, seconds=5)
    stopped = server.fetch(stops.id)
    assert (stopped.status, stopped.attempt) == ("canceled", 1)
    wait_until(lambda: any(line[3] == f"stopped {stops.id}" for line in journal()))
    redis.client_kill_filter(_type="pubsub", skipme=True)
    wait_until(lambda: redis.pubsub_numsub("rq:pubsub:bob")[0][1] == 1)
    send_kill_horse_command(redis, "bob")
    wait_until(lambda: ended(server, [killed]))
    again = server.fetch(killed.id)
    assert (again.status, again.attempt) == ("completed", 2)
    send_shutdown_command(redis, "bob")
    assert worker.wait(timeout=15) == 0
