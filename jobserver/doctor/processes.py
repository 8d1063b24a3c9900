"""Findings about the processes: whether workers and schedulers are there to serve the queues."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from jobserver.broker.metrics import SILENCE, Metrics, QueueMetrics
from jobserver.broker.workers import WorkerState
from jobserver.doctor.finding import Finding, age, counted, some

LAG = 60.0  # seconds that the ledger may be behind the events
FAR_BEHIND = 600.0


def is_silent(worker: WorkerState, *, now: float) -> bool:
    """Tell whether a worker of ours has ceased to say that it lives, which it does each second."""
    if worker.process_slots is None or worker.seen_at is None:
        return False
    return now - worker.seen_at.timestamp() > SILENCE


def has_scheduler(found: Metrics) -> bool:
    """Tell whether a scheduler lives."""
    return found.silence is not None and found.silence <= SILENCE


def findings(found: Metrics, workers: Sequence[WorkerState], *, now: float) -> Iterator[Finding]:
    """Yield what is missing; `now` is the server's Unix time."""
    if not has_scheduler(found):
        yield _no_scheduler(found.silence)
    yield from _unserved(found.queues)
    for silent in (worker for worker in workers if is_silent(worker, now=now)):
        heard = now - silent.seen_at.timestamp() if silent.seen_at else SILENCE
        yield Finding(
            severity="warning",
            name="worker-silent",
            what=f"Worker {silent.name} on {silent.host or '?'} was last heard of "
            f"{age(heard)} ago.",
            why="It was killed, is frozen, or can't reach Redis; its jobs go on elsewhere.",
            remedy=f"Look at process {silent.pid} and its log; start a worker in its place.",
        )
    if found.suspended:
        yield Finding(
            severity="warning",
            name="workers-suspended",
            what="`rq suspend` is in force.",
            why="No worker starts a job of any queue.",
            remedy="rq resume",
        )


def recording(found: Metrics, *, is_on: bool) -> Iterator[Finding]:
    """Yield that the recorder is behind; `is_on`: there is a database to record in."""
    if found.refusing:
        yield Finding(
            severity="error",
            name="ledger-full",
            what=f"{counted(found.unrecorded, 'event')} are not in the ledger, their bound is "
            "reached.",
            why="Every enqueue is refused (HTTP 503) until the ledger has caught up; else a change "
            "would go unrecorded.",
            remedy="Start a scheduler and the database; LEDGER_BACKLOG_MIB is the bound.",
        )
    if not is_on or found.recorder_lag <= LAG:
        return
    yield Finding(
        severity="error" if found.recorder_lag > FAR_BEHIND else "warning",
        name="recorder-lag",
        what=f"{counted(found.unrecorded, 'event')} since {age(found.recorder_lag)} are not in the "
        "ledger.",
        why="The ledger, its search and the histograms are behind; at LEDGER_BACKLOG_MIB enqueues "
        "are refused.",
        remedy="A scheduler process records: is one there, and does the database answer?",
    )


def _no_scheduler(silence: float | None) -> Finding:
    return Finding(
        severity="error",
        name="no-scheduler",
        what="No scheduler runs" + ("." if silence is None else f" since {age(silence)}."),
        why="Recurring jobs are not enqueued, what the outbox holds is not pushed, runs are not "
        "recorded.",
        remedy="flask jobs scheduler, on one host or several (jobserver-scheduler.service).",
    )


def _unserved(queues: Sequence[QueueMetrics]) -> Iterator[Finding]:
    states = [queue.state for queue in queues if not queue.workers]
    waiting = {one.queue.name: one.counts["waiting"] + one.counts["delayed"] for one in states}
    if stuck := [f"{name} ({counted(jobs, 'job')})" for name, jobs in waiting.items() if jobs]:
        yield Finding(
            severity="error",
            name="no-worker",
            what=f"Jobs wait and no worker serves their queue: {some(stuck)}.",
            why="They wait until one does.",
            remedy="flask jobs worker, or with the names of queues (jobserver-worker@.service).",
        )
    if idle := [name for name, jobs in waiting.items() if not jobs]:
        yield Finding(
            severity="warning",
            name="queue-unserved",
            what=f"No worker serves {some(idle)}.",
            why="Nothing waits there now, but what comes would.",
            remedy="flask jobs worker without names serves all queues.",
        )
