"""Cancel on real workers: what waits never runs, what runs is told and then stopped by force."""

from __future__ import annotations

from jobserver import JobServer
from tests.acceptance.conftest import StartWorker, ended, wait_until
from tests.engine_jobs import journal

WAYS = ("report", "ask", "sleep", "swallow")


def lines(text: str) -> set[str]:
    return {job_id for job_id, _, _, said in journal() if said == text}


def test_a_canceled_run_learns_of_it_and_is_stopped_by_force_if_it_does_not_listen(
    server: JobServer, start_worker: StartWorker
) -> None:
    jobs = {
        (where, how): server.enqueue(f"misbehaving_jobs.heed_in_{where}", {"how": how})
        for where in ("process", "thread")
        for how in WAYS
    }
    worker = start_worker(WORKER_PROCESSES="4")
    wait_until(lambda: len(lines("begin")) == len(jobs), what="all run")
    assert {server.cancel(job.id).status for job in jobs.values()} == {"active"}
    willing = [job for (_, how), job in jobs.items() if how in ("report", "ask")]
    deaf = [job for job in jobs.values() if job not in willing]
    wait_until(lambda: ended(server, willing), seconds=5, what="they stop by themselves")
    assert {server.fetch(job.id).status for job in deaf} == {"active"}
    assert lines("end") == {job.id for job in willing}
    wait_until(lambda: ended(server, deaf), seconds=15, what="they are stopped by force")
    for job in jobs.values():
        found = server.fetch(job.id)
        assert (found.status, found.attempt, found.result) == ("canceled", 1, None)
    assert lines("end") == {job.id for job in willing}, "nobody asked the others"
    after = server.enqueue_many("engine_jobs.linger", [{"seconds": 0}] * 4)
    after += server.enqueue_many("engine_jobs.add", [{"a": 1}] * 4)
    wait_until(lambda: ended(server, after), what="the slots work on")
    assert worker.poll() is None
