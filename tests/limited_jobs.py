"""Job types of queues with limits and weights; each run notes when it begins and ends."""

from __future__ import annotations

import time

from jobserver import Queue, job
from tests.engine_jobs import KEPT, gate, journal, note
from tests.safety_jobs import PATIENT, toil

SCARCE = Queue("scarce", global_concurrency=2, retention=KEPT)
SCARCE_THREADS = Queue("scarce-threads", executor="thread", global_concurrency=2, retention=KEPT)
LIGHT = Queue("light", executor="thread", weight=1, retention=KEPT)
HEAVY = Queue("heavy", executor="thread", weight=3, retention=KEPT)
NARROW = Queue("narrow", executor="thread", concurrency=2, retention=KEPT)

toil_in_process = job(queue=SCARCE, name="limited_jobs.toil_in_process", policy=PATIENT)(toil)
toil_in_thread = job(queue=SCARCE_THREADS, name="limited_jobs.toil_in_thread", policy=PATIENT)(toil)


def stay(batch: int) -> None:
    """Stay until the journal tells that this batch may go."""
    note(f"begin {time.time():.3f}")
    while not any(line[3] == f"go {batch}" for line in journal()):
        gate.wait(0.02)


stay_light = job(queue=LIGHT, name="limited_jobs.stay_light", policy=PATIENT)(stay)
stay_heavy = job(queue=HEAVY, name="limited_jobs.stay_heavy", policy=PATIENT)(stay)
stay_narrow = job(queue=NARROW, name="limited_jobs.stay_narrow", policy=PATIENT)(stay)


@job(queue=NARROW)
def pass_through() -> None:
    """Note when it begins and ends."""
    toil(0.001)
