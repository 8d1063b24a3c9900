"""How a worker's slots are shared by its queues: by weight, by limit, and none lies idle."""

from __future__ import annotations

from collections import Counter

from jobserver import JobServer
from tests.acceptance.conftest import StartWorker, ended, wait_until
from tests.acceptance.test_limits_load import most_at_once
from tests.engine_jobs import journal, note
from tests.load import runs

SLOTS = 8


class Stays:
    """Jobs that each stay until they are let go, one batch per job."""

    def __init__(self, server: JobServer) -> None:
        self.server = server
        self.queues: dict[str, str] = {}  # by job
        self.batches: dict[str, int] = {}

    def enqueue(self, queue: str, count: int) -> None:
        for _ in range(count):
            number = len(self.batches)
            job = self.server.enqueue(f"limited_jobs.stay_{queue}", {"batch": number})
            self.queues[job.id], self.batches[job.id] = queue, number

    def running(self) -> list[str]:
        """Return the jobs that have begun and were not let go, by when they began."""
        lines = journal()
        gone = {int(text.split()[1]) for _, _, _, text in lines if text.startswith("go ")}
        begun = [job for job, _, _, text in lines if text.startswith("begin ")]
        return [job for job in begun if self.batches[job] not in gone]

    def shares(self) -> Counter[str]:
        return Counter(self.queues[job] for job in self.running())

    def await_full(self, **shares: int) -> None:
        wait_until(lambda: self.shares() == Counter(shares), what=f"{shares}")

    def let_go(self, queue: str) -> None:
        """Let the oldest job of a queue end."""
        oldest = next(job for job in self.running() if self.queues[job] == queue)
        note(f"go {self.batches[oldest]}")


def test_slots_are_shared_by_weight_and_none_lies_idle(
    server: JobServer, start_worker: StartWorker
) -> None:
    stays = Stays(server)
    stays.enqueue("light", 30)
    start_worker("light", "heavy", WORKER_CONCURRENCY=str(SLOTS))
    stays.await_full(light=8)
    stays.enqueue("heavy", 30)
    for heavy in range(1, 7):  # what others leave becomes heavy's, until it has its share
        stays.let_go("light")
        stays.await_full(light=8 - heavy, heavy=heavy)
    for queue in ("heavy", "light", "heavy", "heavy"):
        stays.let_go(queue)
        stays.await_full(light=2, heavy=6)


def test_jobs_of_a_limited_queue_follow_each_other_at_once(
    server: JobServer, start_worker: StartWorker
) -> None:
    jobs = server.enqueue_many("limited_jobs.pass_through", [{}] * 100)
    start_worker("narrow", "light")
    wait_until(lambda: ended(server, jobs))
    first, last = server.fetch(jobs[0].id).started_at, server.fetch(jobs[-1].id).ended_at
    assert first
    assert last
    assert (last - first).total_seconds() < 5, "a hundredth of a second each, and room"
    assert most_at_once([run for its in runs().values() for run in its], []) == 2


def test_a_queue_takes_no_more_slots_of_a_worker_than_it_may(
    server: JobServer, start_worker: StartWorker
) -> None:
    stays = Stays(server)
    stays.enqueue("narrow", 20)
    start_worker("narrow", "light", WORKER_CONCURRENCY=str(SLOTS))
    stays.await_full(narrow=2)
    stays.enqueue("light", 20)
    stays.await_full(narrow=2, light=6)
    for queue in ("narrow", "light", "narrow", "narrow", "light"):
        stays.let_go(queue)
        stays.await_full(narrow=2, light=6)
