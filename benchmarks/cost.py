"""What a job costs the server: round trips, CPU and memory; by a worker that serves 14 queues."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.measure import Report, valkey
from benchmarks.workers import Workers

JOBS = 10_000
IDLE = 4  # seconds of watching what an idle worker asks for
LOOKS = 0.02  # seconds between the looks whether all is done, which cost the server too
STREAM = "jobserver:events"  # its length is capped, so it is no job's


def run(report: Report) -> None:
    """Measure drains of no-op jobs."""
    with valkey() as url, tempfile.TemporaryDirectory() as directory:
        workers = Workers(url, Path(directory))
        for slots, trips, micros in ((1, 1, 100), (10, None, 70), (50, 0.15, 70)):
            workers.redis.flushall()
            queue = workers.fill("tasks.noop", JOBS)
            with workers.started(["default"], threads=slots):
                time.sleep(1)  # it has settled
                still = _spent(workers)
                time.sleep(IDLE)
                before, looks = _spent(workers), workers.looks
                seconds = workers.drain(queue, JOBS, pause=LOOKS)
                after, looks = _spent(workers), workers.looks - looks
            if trips:
                idle = (before["reads"] - still["reads"]) / IDLE
                read = (after["reads"] - before["reads"] - looks - idle * seconds) / JOBS
                name = f"round trips per job, beside an idle worker's, {slots} slots"
                report.figure(name, read, at_most=trips)
            cpu = 1e6 * (after["cpu"] - before["cpu"]) / JOBS
            report.figure(f"server CPU per job, {slots} slots", cpu, at_most=micros, unit=" µs")
    with valkey() as url, tempfile.TemporaryDirectory() as directory:
        _memory(report, Workers(url, Path(directory)))


def _memory(report: Report, workers: Workers) -> None:
    workers.redis.ping()
    empty = _bytes(workers)
    queue = workers.fill("tasks.noop", JOBS)
    waiting = (_bytes(workers) - empty) / JOBS
    report.figure("a waiting job", waiting, at_most=700, unit=" bytes")
    with workers.started([queue]):
        workers.drain(queue, JOBS)
    finished = (_bytes(workers) - empty) / JOBS
    report.figure("a finished job", finished, at_most=2000, unit=" bytes")


def _bytes(workers: Workers) -> int:
    stream = workers.redis.memory_usage(STREAM, samples=0) or 0
    return int(workers.redis.info("memory")["used_memory"]) - int(stream)


def _spent(workers: Workers) -> dict[str, float]:
    said: dict[str, Any] = workers.redis.info()
    return {
        "cpu": said["used_cpu_user"] + said["used_cpu_sys"],
        "reads": said["total_reads_processed"],
    }
