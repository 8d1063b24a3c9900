"""How fast workers drain queues: ours with events and a log line per job, against stock RQ."""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path

from benchmarks.measure import Report, valkey
from benchmarks.workers import Workers


def run(report: Report) -> None:
    """Measure no-op jobs in threads and processes, and sleeping ones."""
    with valkey() as url, tempfile.TemporaryDirectory() as directory:
        bench = Workers(url, Path(directory))
        for slots, jobs, target in ((1, 3000, 10), (10, 10000, 25), (50, 20000, 45)):
            report.ratio(
                f"{slots} thread slots against SimpleWorker",
                lambda jobs=jobs, slots=slots: bench.ours("tasks.noop", jobs, threads=slots),
                bench.stock,
                at_least=target,
            )
            if slots == 1:  # or that, when SimpleWorker has a good day
                micros = 1e6 * statistics.median(bench.cpu)
                report.figure("1 thread slot, worker CPU per job", micros, at_most=350, unit=" µs")
        for children, jobs, target in ((2, 5000, 12), (10, 10000, 25)):
            report.ratio(
                f"{children} child processes against SimpleWorker",
                lambda jobs=jobs, n=children: bench.ours("tasks.noop_process", jobs, processes=n),
                bench.stock,
                at_least=target,
            )
        for slots, jobs in ((10, 1500), (50, 7500)):
            rate = bench.ours("tasks.nap", jobs, threads=slots)
            share = 100 * rate / (slots / 0.02)
            report.figure(
                f"20 ms jobs, {slots} slots", share, at_least=95, unit=" % of the ceiling"
            )
