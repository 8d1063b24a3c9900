"""Job types for the tests that kill workers: three queues of both executors, 20 attempts each."""

from __future__ import annotations

import time

from jobserver import Policy, Queue, Retention, fixed, job, progress
from tests.engine_jobs import note

KEPT = Retention(completed_count=1_000_000, failed_count=1_000_000)
MAIL = Queue("mail", executor="thread", retention=KEPT)
SYNC = Queue("sync", retention=KEPT)
REPORT = Queue("report", executor="thread", weight=2, retention=KEPT)
# Kills are many: a job must not fail for having been under several of them.
PATIENT = Policy(attempts=20, backoff=fixed(0), timeout=60)


def toil(seconds: float) -> float:
    """Write down when it begins and ends; report progress halfway."""
    note(f"begin {time.time():.3f}")
    time.sleep(seconds / 2)
    progress(50)
    time.sleep(seconds / 2)
    note(f"end {time.time():.3f}")
    return seconds


@job(queue=MAIL, policy=PATIENT)
def mail(seconds: float) -> float:
    """Toil in a thread."""
    return toil(seconds)


@job(queue=SYNC, policy=PATIENT)
def sync(seconds: float) -> float:
    """Toil in a process."""
    return toil(seconds)


@job(queue=REPORT, policy=PATIENT)
def report(seconds: float) -> float:
    """Toil in a thread of a heavier queue."""
    return toil(seconds)
