"""How much memory an idle worker of the application and its children take."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import psutil

from benchmarks.measure import Report, valkey
from benchmarks.workers import Workers

MIB = 1024 * 1024


def run(report: Report) -> None:
    """Start a worker of all queues with 50 thread slots and two warm children."""
    with valkey() as url, tempfile.TemporaryDirectory() as directory:
        workers = Workers(url, Path(directory))
        os.environ["JOBSERVER_APP"] = "wsgi:app"
        with workers.started(["default"], threads=50) as worker:
            workers.until(lambda: len(_children(worker)) == 2)
            report.figure(
                "idle worker, RSS", worker.memory_info().rss / MIB, at_most=90, unit=" MiB"
            )
            own = max(child.memory_full_info().uss for child in _children(worker)) / MIB
            report.figure("warm child, memory of its own", own, at_most=20, unit=" MiB")


def _children(worker: psutil.Process) -> list[psutil.Process]:
    template = worker.children()
    return [child for process in template for child in process.children()]
