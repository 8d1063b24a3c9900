"""Jobs that do what no job should: each ends with its reason, in time, and its slot works on."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from redis import Redis
from rq.job import Job as RQJob
from rq.serializers import JSONSerializer

from jobserver import JobServer, fixed
from jobserver.broker import Job, keys
from tests.acceptance.conftest import StartWorker, ended, installed, wait_until, workers
from tests.engine_jobs import journal
from tests.nest import Nest

TIMEOUT = 1.0  # of these job types
LATEST = TIMEOUT + 6  # seconds until whatever a job does is reported

DIED, LATE = "ProcessDied", "JobTimeout"
INSIDE = "the job ran longer than its timeout"  # its own process noticed
OUTSIDE = "longer than 1 s"  # the worker had to kill it

# What a job does in a process, and the error that is kept.
IN_PROCESSES = {
    "loop": (LATE, INSIDE),
    "sleep": (LATE, INSIDE),
    "hang-in-c": (LATE, INSIDE),
    "swallow-exceptions": (LATE, INSIDE),
    "swallow": (LATE, OUTSIDE),
    "hold-the-gil": (LATE, OUTSIDE),
    "stop": (LATE, OUTSIDE),
    "object": ("TypeError", "not JSON serializable"),
    "key": ("TypeError", "Dict key must"),
    "large": ("ResultTooLarge", "1048578 bytes"),
    "base": ("BaseException", "unusual"),
    "exit": ("SystemExit", "unusual"),
    "interrupt": ("KeyboardInterrupt", "unusual"),
    "generator": ("GeneratorExit", "unusual"),
    "group": ("BaseExceptionGroup", "unusual (1 sub-exception)"),
    "recursion": ("RecursionError", "maximum recursion depth"),
    "exit-0": (DIED, "exit code 0, peak memory "),
    "exit-3": (DIED, "exit code 3, peak memory "),
    "kill": (DIED, "killed by SIGKILL, peak memory "),
    "segfault": (DIED, "killed by SIGSEGV, peak memory "),
    "abort": (DIED, "killed by SIGABRT, peak memory "),
    "other-program": (DIED, "killed by SIGALRM, peak memory "),
    "heir": (DIED, "exit code 4, peak memory "),
    "close": (DIED, "exit code 1, peak memory "),
}

REPORTED = "longer than its timeout of 1 s"

# What one does in a thread, where nothing can be killed, and the error that is kept.
IN_THREADS = {
    "loop": (LATE, REPORTED),
    "sleep": (LATE, REPORTED),
    "hang-in-c": (LATE, REPORTED),
    "swallow-exceptions": (LATE, REPORTED),
    "swallow": (LATE, REPORTED),
    **{
        how: IN_PROCESSES[how]
        for how in (
            *("object", "key", "large", "base", "exit", "interrupt", "generator", "group"),
            "recursion",
        )
    },
}


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A job as it ended, and the text of its last attempt as RQ tells it."""

    job: Job
    text: str

    @property
    def seconds(self) -> float:
        """How long the attempt took, until it was reported."""
        assert self.job.started_at and self.job.ended_at
        return (self.job.ended_at - self.job.started_at).total_seconds()


def outcomes(server: JobServer, jobs: Mapping[str, Job]) -> dict[str, Outcome]:
    """Read how jobs ended, by our API and by RQ's."""
    connection = server.broker.connection
    found = {}
    for how, job in jobs.items():
        theirs = RQJob.fetch(job.id, connection=connection, serializer=JSONSerializer)
        result = theirs.latest_result()
        found[how] = Outcome(job=server.fetch(job.id), text=result.exc_string if result else "")
    return found


def started(word: str) -> list[psutil.Process]:
    """Return the processes that jobs noted under a word, but for those that are gone."""
    lines = [text.split() for _, _, _, text in journal()]
    pids = [int(words[1]) for words in lines if words[0] == word]
    return [psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)]


@pytest.fixture(scope="module")
def in_processes(
    valkey: str, all_tests_nest: Nest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Outcome]]:
    """All of it at once in one worker, each in a child of its own; then a job in every child."""
    directory = tmp_path_factory.mktemp("processes")
    with installed(valkey, directory) as server, workers(all_tests_nest, directory) as start:
        Redis.from_url(valkey).flushall()
        kind = "misbehaving_jobs.misbehave_in_process"
        jobs = {how: server.enqueue(kind, {"how": how}) for how in (*IN_PROCESSES, "program")}
        jobs["poison"] = server.enqueue(
            kind, {"how": "segfault"}, attempts=20, backoff=fixed(0), timeout=60
        )
        jobs["small"], jobs["large-memory"] = (
            server.enqueue("misbehaving_jobs.fill", {"mib": mib}) for mib in (20, 2000)
        )
        start("in-processes", "limited", WORKER_PROCESSES=str(len(jobs)))
        wait_until(lambda: ended(server, list(jobs.values())), seconds=40)
        found = outcomes(server, jobs)
        wait_until(lambda: not started("program"), what="programs die with their job")
        meeting = server.enqueue_many(
            "misbehaving_jobs.meet_in_process", [{"count": len(jobs)}] * len(jobs)
        )
        wait_until(lambda: ended(server, meeting), what="every slot works on")
        assert {server.fetch(job.id).status for job in meeting} == {"completed"}
        (heir,) = started("heir")
        heir.kill()
        yield found


@pytest.mark.parametrize("how", IN_PROCESSES)
def test_a_job_in_a_process_fails_with_its_reason_in_time(
    in_processes: Mapping[str, Outcome], how: str
) -> None:
    outcome, (error_type, message) = in_processes[how], IN_PROCESSES[how]
    job = outcome.job
    assert (job.status, job.error_type, job.attempt) == ("failed", error_type, 1)
    assert message in (job.error_message or "")
    assert outcome.seconds < LATEST
    if error_type == DIED:
        assert f"The job's process ended: {job.error_message}" in outcome.text
        assert int(str(job.error_message).split()[-2]) > 10, "MiB of a Python process"
    elif message == OUTSIDE:
        assert "killed by SIGKILL" in outcome.text
        assert outcome.seconds > TIMEOUT + 4
    else:
        assert error_type in outcome.text


def test_a_job_that_crashes_three_times_is_poison(in_processes: Mapping[str, Outcome]) -> None:
    job = in_processes["poison"].job
    assert (job.status, job.error_type, job.attempt) == ("failed", "Poison", 3)
    assert "SIGSEGV" in (job.error_message or "")


def test_a_program_that_a_job_starts_can_be_terminated(in_processes: Mapping[str, Outcome]) -> None:
    job = in_processes["program"].job
    assert (job.status, job.result) == ("completed", -signal.SIGTERM)


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA counts little elsewhere")
def test_a_job_cannot_take_more_memory_than_its_queue_allows(
    in_processes: Mapping[str, Outcome],
) -> None:
    assert in_processes["small"].job.status == "completed"
    job = in_processes["large-memory"].job
    assert (job.status, job.error_type) == ("failed", "MemoryError")
    assert job.error_message == "beyond its queue's memory_limit of 300 MiB"


@pytest.fixture(scope="module")
def in_threads(
    valkey: str, all_tests_nest: Nest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Outcome]]:
    """All of it at once in one worker, which exits to be replaced."""
    directory = tmp_path_factory.mktemp("threads")
    with installed(valkey, directory) as server, workers(all_tests_nest, directory) as start:
        Redis.from_url(valkey).flushall()
        kind = "misbehaving_jobs.misbehave_in_thread"
        jobs = {how: server.enqueue(kind, {"how": how}) for how in IN_THREADS}
        stops, stays = (
            server.enqueue(kind, {"how": how}, attempts=2, backoff=fixed(0))
            for how in ("loop", "sleep")
        )
        slots = str(len(jobs) + 2)
        worker = start("in-threads", WORKER_CONCURRENCY=slots, DRAIN_SECONDS="0.5")
        wait_until(lambda: ended(server, list(jobs.values())))
        found = outcomes(server, jobs)
        wait_until(lambda: server.fetch(stops.id).is_ended, what="a thread that stops is free")
        assert server.fetch(stays.id).status == "active", "it runs on: its retry must wait"
        assert worker.wait(timeout=15) == 3
        yield found | outcomes(server, {"stops": stops, "stays": stays})


@pytest.mark.parametrize("how", IN_THREADS)
def test_a_job_in_a_thread_fails_with_its_reason_in_time(
    in_threads: Mapping[str, Outcome], how: str
) -> None:
    outcome, (error_type, message) = in_threads[how], IN_THREADS[how]
    job = outcome.job
    assert (job.status, job.error_type, job.attempt) == ("failed", error_type, 1)
    assert message in (job.error_message or "")
    assert outcome.seconds < LATEST
    assert error_type in outcome.text
    if error_type == LATE:
        assert "The job was here at its timeout" in outcome.text
        assert "misbehaving_jobs.py" in outcome.text


def test_a_thread_that_swallows_its_timeout_is_told_once(in_threads: Mapping[str, Outcome]) -> None:
    swallowed = [text for _, _, _, text in journal() if text == "swallowed"]
    assert len(swallowed) == 1


def test_a_retry_waits_until_the_stuck_thread_is_gone_or_its_worker_is(
    in_threads: Mapping[str, Outcome],
) -> None:
    stopped, stayed = in_threads["stops"].job, in_threads["stays"].job
    assert (stopped.status, stopped.attempt) == ("failed", 2)
    assert (stayed.status, stayed.attempt, stayed.error_type) == ("delayed", 1, LATE)


def test_a_worker_that_cannot_go_on_ends_whatever_its_jobs_left_running(
    server: JobServer, start_worker: StartWorker, redis: Redis, tmp_path: Path
) -> None:
    left = server.enqueue("misbehaving_jobs.misbehave_in_thread", {"how": "leave-a-thread"})
    worker = start_worker("in-threads")
    wait_until(lambda: server.fetch(left.id).is_ended)
    redis.delete(keys.HELD)
    redis.set(keys.HELD, "no hash")  # a mistake of ours would look like this
    server.enqueue("engine_jobs.add", {"a": 1})
    assert worker.wait(timeout=20) == 1
    assert "WRONGTYPE" in (tmp_path / "worker-0.log").read_text()
