"""How long an idle system takes from an enqueue to the job's first line, and how depth matters."""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

from benchmarks.measure import Report, valkey
from benchmarks.workers import Workers

PICKUPS = 500
SHALLOW, DEEP = 10_000, 1_000_000


def run(report: Report) -> None:
    """Measure single jobs, one after the other, and drains of two depths."""
    with valkey() as url, tempfile.TemporaryDirectory() as directory:
        workers = Workers(url, Path(directory))
        with workers.started(["bench-threads"]):
            waits = sorted(_wait(workers) for _ in range(PICKUPS))
        p99 = waits[int(PICKUPS * 0.99)]
        report.figure("pickup, p50", 1000 * statistics.median(waits), at_most=1.5, unit=" ms")
        report.figure("pickup, p99", 1000 * p99, at_most=5, unit=" ms")
        _depth(report, workers)


def _wait(workers: Workers) -> float:
    mark = f"mark-{time.perf_counter_ns()}"
    enqueued = time.time()
    workers.server.enqueue("tasks.mark", {"key": mark})
    answer = workers.redis.blpop([mark], timeout=10)
    assert answer is not None
    time.sleep(0.005)  # the worker is idle again before the next one
    return float(answer[1]) - enqueued


def _depth(report: Report, workers: Workers) -> None:
    workers.redis.flushall()
    queue = workers.fill("tasks.noop", DEEP)
    with workers.started([queue]):
        workers.drain(queue, SHALLOW)  # warm, and the same for both
        deep = [SHALLOW / workers.drain(queue, SHALLOW) for _ in range(5)]
    workers.redis.flushall()
    queue = workers.fill("tasks.noop", 7 * SHALLOW)
    with workers.started([queue]):
        workers.drain(queue, SHALLOW)
        shallow = [SHALLOW / workers.drain(queue, SHALLOW) for _ in range(5)]
    share = 100 * statistics.median(deep) / statistics.median(shallow)
    report.figure("drain rate at 1,000,000 waiting", share, at_least=90, unit=" % of that at few")
