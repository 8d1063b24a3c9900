"""The thread executor: an interrupt strikes the run it is meant for, or none."""

from __future__ import annotations

import time

from jobserver import JobServer
from jobserver.broker import Claim, Ending
from jobserver.broker.job import envelope
from jobserver.outcomes import JobCanceled
from jobserver.worker.threads import Threads


def claim_of(number: int) -> Claim:
    return Claim(
        id=f"job-{number}",
        exec=f"exec-{number}",
        run=f"run-{number}",
        type="engine_jobs.add",
        data=envelope("jobserver.runner.run", "engine_jobs.add", b'{"a":1}').encode(),
        timeout=60,
        attempt=1,
        attempts=1,
        backoff="",
        origin="in-threads",
        started=0,
        canceled=False,
    )


def test_an_interrupt_at_the_end_of_a_run_spares_the_next_one(server: JobServer) -> None:
    threads = Threads(server, slots=1, wake=lambda: None)
    endings: dict[str, Ending] = {}
    claims = [claim_of(number) for number in range(600)]
    for spins, (doomed, next_one) in enumerate(zip(claims[::2], claims[1::2], strict=True)):
        threads.start(doomed)
        threads.start(next_one)
        deadline = time.monotonic() + 10
        for _ in range(spins % 300 * 3):  # it strikes at another point of the run each time
            endings.update((ending.claim.id, ending) for ending in threads.ended())
        while len(endings) % 2 or not {doomed.id, next_one.id} <= endings.keys():
            threads.interrupt(doomed, JobCanceled)
            endings.update((ending.claim.id, ending) for ending in threads.ended())
            assert time.monotonic() < deadline
    assert {endings[claim.id].word for claim in claims[1::2]} == {"completed"}
    assert {endings[claim.id].word for claim in claims[::2]} <= {
        *("completed", "canceled", "release"),
    }
