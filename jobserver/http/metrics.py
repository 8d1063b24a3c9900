"""`/metrics`: what Prometheus scrapes, in its text format or OpenMetrics; one round trip to Redis.

Every number is the installation's, not this process's: whichever web process is asked, the answer
is the same. docs/operations/metrics.md says what each means.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from itertools import accumulate

from flask import Response, request
from prometheus_client import Metric
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector

from jobserver import current
from jobserver.broker import metrics
from jobserver.broker.metrics import Metrics, QueueMetrics
from jobserver.config import Config
from jobserver.errors import RedisUnavailable
from jobserver.histogram import BOUNDS, Histogram
from jobserver.http import guard
from jobserver.http.blueprint import Blueprint
from jobserver.server import Server

TEXT = "text/plain"
OPENMETRICS = "application/openmetrics-text"

_FORMATS: Mapping[str, tuple[Callable[[Collector], bytes], str]] = {
    TEXT: (generate_latest, CONTENT_TYPE_PLAIN_0_0_4),
    OPENMETRICS: (openmetrics.generate_latest, openmetrics.CONTENT_TYPE_LATEST),
}
_BOUNDS = [*map(str, BOUNDS), "+Inf"]
_TOTALS = {
    "enqueued": "Jobs created.",
    "completed": "Jobs that ended well.",
    "failed": "Jobs that ended as failed, their attempts spent or forbidden.",
    "canceled": "Jobs that were canceled.",
    "retried": "Attempts that failed and were followed by another, also by hand.",
    "deduplicated": "Enqueues that found an active job of their key.",
}


def blueprint() -> Blueprint:
    """Return the route `/metrics`."""
    routes = Blueprint("jobserver_metrics", __name__, description="Numbers for Prometheus")
    guard.protect(routes, role="viewer", opened_by="metrics")

    @routes.get("/metrics")
    @routes.response(200, {"type": "string"}, content_type=TEXT)
    def scrape() -> Response:
        """Tell how queues, workers, scheduler, recorder and Redis are, as Prometheus reads it.

        Redis away: 200 with `jobserver_up 0` and no other number of it.
        """
        encode, content_type = _FORMATS[_accepted()]
        response = Response(encode(Scrape(current.server())), content_type=content_type)
        response.headers["Cache-Control"] = "no-store"
        return response

    return routes


@dataclass(frozen=True)
class Scrape(Collector):
    """One reading of a server's metrics, as prometheus-client wants it."""

    server: Server

    def collect(self) -> Iterator[Metric]:
        """Yield all families."""
        queues = list(self.server.registry.queues.values())
        try:
            found = metrics.read(self.server.broker, queues)
        except RedisUnavailable:
            found = None
        yield GaugeMetricFamily("jobserver_up", "1: Redis answers.", value=found is not None)
        build = {"version": _version(), "python": platform.python_version()}
        yield InfoMetricFamily("jobserver_build", "What answers.", value=build)
        if found is not None:
            yield from _queues(found)
            yield from _histograms(found)
            yield from _processes(found, lease=self.server.config.lease_seconds)
            about = "Events that the stream holds, recorded ones too."
            yield GaugeMetricFamily("jobserver_events", about, value=found.events)
            if self.server.db is not None:
                yield from _recorder(found, config=self.server.config)
            yield from _memory(found)


def _version() -> str:
    try:
        return metadata.version("jobserver")
    except metadata.PackageNotFoundError:  # run from its sources
        return "uninstalled"


def _accepted() -> str:
    # prometheus-client's own choice fails on versions it can't read, and promises any it is asked.
    for wanted, _ in sorted(request.accept_mimetypes, key=lambda one: -one[1]):
        name = wanted.partition(";")[0].strip().lower()
        if name in _FORMATS:
            return name
    return TEXT


def _queues(found: Metrics) -> Iterator[Metric]:
    jobs = GaugeMetricFamily(
        "jobserver_jobs",
        "Jobs by state; of the ended ones those that Redis keeps.",
        labels=("queue", "state"),
    )
    for queue in found.queues:
        for state, count in queue.state.counts.items():
            jobs.add_metric((queue.state.queue.name, state), count)
    yield jobs

    gauges: dict[str, tuple[str, Callable[[QueueMetrics], float]]] = {
        "jobserver_queue_oldest_waiting_age_seconds": (
            "How long the job waits that is next; 0: none waits.",
            lambda queue: queue.waited,
        ),
        "jobserver_queue_overdue_seconds": (
            "How late the delayed job is that should have joined the line first; 0: none is.",
            lambda queue: queue.overdue,
        ),
        "jobserver_queue_paused": (
            "1: nothing of the queue starts, as it is paused or all of RQ is suspended.",
            lambda queue: found.suspended or queue.state.pause is not None,
        ),
        "jobserver_queue_workers": (
            "Workers that serve the queue.",
            lambda queue: queue.workers,
        ),
    }
    for name, (about, value) in gauges.items():
        gauge = GaugeMetricFamily(name, about, labels=("queue",))
        for queue in found.queues:
            gauge.add_metric((queue.state.queue.name,), value(queue))
        yield gauge

    for what, about in _TOTALS.items():
        counter = CounterMetricFamily(f"jobserver_jobs_{what}", about, labels=("queue",))
        for queue in found.queues:
            counter.add_metric((queue.state.queue.name,), queue.totals[what])
        yield counter


def _histograms(found: Metrics) -> Iterator[Metric]:
    wait = HistogramMetricFamily(
        "jobserver_job_wait_seconds",
        "Time from when a job was due to the start of its last attempt, of ended jobs.",
        labels=("queue",),
    )
    run = HistogramMetricFamily(
        "jobserver_job_run_seconds",
        "Time that the last attempt of ended jobs took.",
        labels=("queue", "outcome"),
    )
    nothing = Histogram()
    for queue in found.queues:
        name = queue.state.queue.name
        _add(wait, (name,), found.histograms.get((name, "wait"), nothing))
        for outcome in ("completed", "failed"):
            _add(run, (name, outcome), found.histograms.get((name, outcome), nothing))
    yield wait
    yield run


def _add(family: HistogramMetricFamily, labels: tuple[str, ...], histogram: Histogram) -> None:
    below = accumulate(histogram.counts)
    family.add_metric(labels, list(zip(_BOUNDS, below, strict=True)), histogram.seconds)


def _processes(found: Metrics, *, lease: float) -> Iterator[Metric]:
    yield GaugeMetricFamily("jobserver_workers", "Workers that live.", value=found.workers)
    slots = GaugeMetricFamily(
        "jobserver_slots", "Jobs that all workers can run at a time.", labels=("executor",)
    )
    busy = GaugeMetricFamily(
        "jobserver_slots_busy", "Jobs that run, by how their queue runs them.", labels=("executor",)
    )
    for executor, count in found.slots.items():
        slots.add_metric((executor,), count)
        states = [queue.state for queue in found.queues]
        active = [state.counts["active"] for state in states if state.queue.executor == executor]
        busy.add_metric((executor,), sum(active))
    yield slots
    yield busy
    schedules = GaugeMetricFamily(
        "jobserver_schedules", "Recurring entries by state.", labels=("state",)
    )
    for state, count in found.entries.items():
        schedules.add_metric((state,), count)
    yield schedules
    age = 0.0 if found.lease_left is None else max(0.0, lease - found.lease_left)
    silence = float("inf") if found.silence is None else found.silence
    for name, about, value in (
        ("jobserver_leases", "Runs that workers hold.", found.leases),
        (
            "jobserver_leases_expired",
            "Runs whose worker is lost; not taken back yet.",
            found.expired,
        ),
        ("jobserver_lease_age_seconds", "Since the renewal longest ago; 0: nothing runs.", age),
        ("jobserver_schedulers", "Scheduler processes that live.", found.schedulers),
        ("jobserver_scheduler_silence_seconds", "Since any scheduler's last beat.", silence),
        ("jobserver_schedules_due", "Recurring entries that should have ticked.", found.due),
        ("jobserver_scheduler_lag_seconds", "How late the first of those is.", found.late),
    ):
        yield GaugeMetricFamily(name, about, value=value)


def _recorder(found: Metrics, *, config: Config) -> Iterator[Metric]:
    bound = config.ledger_backlog_mib * 1024 * 1024
    for name, about, value in (
        ("jobserver_recorder_lag_events", "Events that the ledger lacks.", found.unrecorded),
        ("jobserver_recorder_lag_seconds", "Age of the first of those.", found.recorder_lag),
        ("jobserver_recorder_backlog_bytes", "Memory that those take.", found.backlog),
        ("jobserver_recorder_backlog_max_bytes", "And may take: LEDGER_BACKLOG_MIB.", bound),
        ("jobserver_recorder_backlog_full", "1: so much that no job can be made.", found.refusing),
    ):
        yield GaugeMetricFamily(name, about, value=value)


def _memory(found: Metrics) -> Iterator[Metric]:
    for name, about, value in (
        ("jobserver_redis_memory_used_bytes", "Memory that Redis uses.", found.memory_used),
        (
            "jobserver_redis_memory_max_bytes",
            "Memory that Redis may use: its maxmemory, else the machine's.",
            found.memory_max,
        ),
    ):
        if value is not None:
            yield GaugeMetricFamily(name, about, value=value)
