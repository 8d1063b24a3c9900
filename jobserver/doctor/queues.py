"""Findings about what lies in the queues: what waits long, is held back, or belongs to nobody."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from jobserver.broker.disorder import Disorder
from jobserver.broker.metrics import QueueMetrics
from jobserver.broker.queue_state import Pause
from jobserver.doctor.finding import Finding, age, counted, some

BACKLOG = 100  # waiting jobs of one queue that are worth a word
LATE = 30.0  # seconds after its time, when a delayed job should long be in line


def findings(
    queues: Sequence[QueueMetrics], found: Disorder, *, types: frozenset[str]
) -> Iterator[Finding]:
    """Yield what a person should know of the queues; `types` are the job types that exist."""
    for queue in queues:
        yield from _of_queue(queue, failed=found.failed.get(queue.state.queue.name, 0))
    yield from _strangers(found, types=types)


def _of_queue(queue: QueueMetrics, *, failed: int) -> Iterator[Finding]:
    name, waiting, pause = queue.state.queue.name, queue.state.counts["waiting"], queue.state.pause
    if pause:
        yield Finding(
            severity="info",
            name="queue-paused",
            what=f"Queue {name!r} is paused{_until(pause)}; {waiting} wait.",
            why="Nothing of it starts until it is resumed.",
            remedy=f"flask jobs resume {name}",
        )
    elif waiting > BACKLOG:
        yield Finding(
            severity="info",
            name="backlog",
            what=f"{waiting} jobs wait in {name!r}, the next one since {age(queue.waited)}.",
            why="Jobs come faster than they are run, or did.",
            remedy="More workers (WORKER_INSTANCES, jobserver-worker@.service) or slots "
            "(WORKER_CONCURRENCY for threads, WORKER_PROCESSES for processes).",
        )
    if failed:
        yield Finding(
            severity="info",
            name="failed-lately",
            what=f"{counted(failed, 'job')} of {name!r} failed in the last hour.",
            why="They run no more by themselves.",
            remedy=f"flask jobs failed --queue {name}; when the cause is gone, "
            f"flask jobs retry --queue {name} --all",
        )
    if queue.overdue > LATE:
        yield Finding(
            severity="error",
            name="delayed-overdue",
            what=f"Delayed jobs of {name!r} should be in line, the first since "
            f"{age(queue.overdue)}.",
            why="Any worker or scheduler puts them there within a second; none does.",
            remedy="Start one; flask jobs recover does it now.",
        )


def _until(pause: Pause) -> str:
    till = datetime.fromtimestamp(pause.until, tz=UTC)
    until = f" until {till:%Y-%m-%d %H:%M} UTC" if pause.until else ""
    return until + (f": {pause.reason}" if pause.reason else "")


def _strangers(found: Disorder, *, types: frozenset[str]) -> Iterator[Finding]:
    if found.strangers:
        listed = some(f"{origin} ({jobs})" for origin, jobs in sorted(found.strangers.items()))
        yield Finding(
            severity="warning",
            name="queue-unknown",
            what=f"Jobs wait in queues that are not declared here: {listed}.",
            why="No worker of this application takes them.",
            remedy="Deploy the version that declares them, or start that queue's own worker.",
        )
    if unknown := [f"{name} in {queue}" for queue, name in found.types if name not in types]:
        yield Finding(
            severity="warning",
            name="type-unknown",
            what=f"Jobs wait whose type is not declared here: {some(unknown)}.",
            why="A worker of this version would fail them.",
            remedy="Deploy the version that declares it; for good, cancel them.",
        )
    if found.stock_entries:
        yield Finding(
            severity="info",
            name="stock-rqscheduler",
            what=f"Redis holds entries of a stock rqscheduler: {found.stock_entries}.",
            why="Nothing here serves them; they do no harm.",
            remedy="Declare them as recurring jobs here, then DEL rq:scheduler:scheduled_jobs.",
        )
