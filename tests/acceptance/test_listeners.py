"""Listeners of an application hear what becomes of its jobs, and harm none."""

from __future__ import annotations

import signal

from jobserver import JobServer, fixed
from tests.acceptance.conftest import StartWorker, wait_until
from tests.engine_jobs import journal
from tests.listening_app import create_app

APP = {"JOBSERVER_APP": "tests.listening_app:create_app", "LEASE_SECONDS": "1"}


def heard() -> list[str]:
    """Return what listeners were told: event, job id, attempt and error type."""
    return sorted(line[3] for line in journal() if line[0] == "-")


def test_listeners_hear_of_each_end(server: JobServer, start_worker: StartWorker) -> None:
    good = server.enqueue("engine_jobs.add", {"a": 1})
    bad = server.enqueue("engine_jobs.fail")
    crash = server.enqueue(
        "misbehaving_jobs.misbehave_in_process", {"how": "kill"}, attempts=20, backoff=fixed(0)
    )
    running = server.enqueue("engine_jobs.linger", {"seconds": 1})
    worker = start_worker(**APP)
    wait_until(lambda: server.fetch(running.id).status == "active")
    server.cancel(running.id)
    wait_until(lambda: len(heard()) >= 9, what="all ends are told")
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(timeout=15) == 0
    assert heard() == sorted(
        [
            f"completed {good.id} 1",
            *(f"retry {bad.id} {attempt} ValueError" for attempt in (1, 2)),
            f"failed {bad.id} 3 ValueError",
            *(f"retry {crash.id} {attempt} ProcessDied" for attempt in (1, 2)),
            f"failed {crash.id} 3 Poison",
            f"poison {crash.id} 3 Poison",
            f"canceled {running.id} 1",
        ]
    )


def test_listeners_hear_of_waiting_jobs_that_are_canceled(server: JobServer) -> None:
    app = create_app()
    listening = app.extensions["jobserver"]
    with app.app_context():
        job = listening.enqueue("engine_jobs.add", {"a": 1})
        listening.cancel(job.id)
    listening.listeners.close(within=10)
    assert heard() == [f"canceled {job.id} 0"]
    listening.broker.connection.close()


def test_listeners_hear_of_lost_workers(server: JobServer, start_worker: StartWorker) -> None:
    once = server.enqueue("engine_jobs.linger", {"seconds": 60}, attempts=1)
    doomed = start_worker(**APP)
    wait_until(lambda: len(journal()) == 1)
    doomed.send_signal(signal.SIGKILL)
    start_worker(**APP)
    wait_until(lambda: len(heard()) >= 2, seconds=30)
    assert heard() == [f"failed {once.id} 1 WorkerLost", f"stalled {once.id} 1 WorkerLost"]
