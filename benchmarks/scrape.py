"""What a scrape of /metrics costs with 100,000 jobs in the application's queues."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.measure import Report, valkey
from jobs import application
from jobs.settings import Settings
from jobserver import JobServer
from jobserver.broker import metrics
from jobserver.histogram import BUCKETS, Histogram
from tests.hands import request_of

JOBS = 100_000
SCRAPES = 20


def run(report: Report) -> None:
    """Scrape in this process: the time of an answer, and the server's of its two scripts."""
    with valkey() as url, TemporaryDirectory() as directory:
        settings = Settings(
            redis_url=url, instance_path=Path(directory), open_routes=frozenset({"metrics"})
        )
        app = application.create_app(settings)
        server: JobServer = app.extensions["jobserver"]
        queues = list(server.registry.queues)
        counted = Histogram(counts=[7] * BUCKETS, seconds=1)
        histograms = {(q, what): counted for q in queues for what in ("wait", "completed")}
        metrics.publish(server.broker, position="1-1", histograms=histograms)
        _fill(server, queues, count=JOBS // len(queues))
        took, own = _scraped(server)
        many = f"scrape of {len(queues)} queues with {JOBS:,} jobs"
        report.figure(many, took, at_most=50, unit=" ms")
        report.figure(f"{many}, server's time", own, at_most=3, unit=" ms")


def _fill(server: JobServer, queues: Sequence[str], *, count: int) -> None:
    """Enqueue `count` jobs to each queue, half of them for later."""
    for queue in queues:
        for due in ("", "+9000000"):
            server.broker.enqueue(
                [
                    request_of(f"{queue}-{count}-{n}{due}", queue=queue, due=due)
                    for n in range(count // 2)
                ]
            )


def _scraped(server: JobServer) -> tuple[float, float]:
    """Return the median ms of an answer, and the server's own of its scripts, the best of five."""
    client = server.app.test_client()
    connection = server.broker.connection
    client.get("/metrics")
    times, own = [], []
    for _ in range(5):
        connection.config_resetstat()
        for _ in range(SCRAPES):
            began = time.perf_counter()
            client.get("/metrics")
            times.append(time.perf_counter() - began)
        own.append(connection.info("commandstats")["cmdstat_evalsha"]["usec"] / SCRAPES)
    return statistics.median(times) * 1000, min(own) / 1000
