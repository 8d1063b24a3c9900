"""The worker processes that are registered in Redis, and what they run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from jobserver.broker.broker import Broker


@dataclass(frozen=True, kw_only=True, slots=True)
class RunningJob:
    """A job that a worker runs."""

    id: str
    type: str
    queue: str
    attempt: int
    started_at: datetime | None


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerState:
    """A worker as it last said of itself, at `seen_at`.

    `state` is RQ's word (idle, busy, starting, suspended). The slots are None for a worker of
    stock RQ. `busy_seconds` is the time spent in jobs, of all slots together.
    """

    name: str
    state: str
    host: str
    pid: int | None
    queues: Sequence[str]
    process_slots: int | None
    thread_slots: int | None
    jobs: Sequence[RunningJob]
    completed: int
    failed: int
    busy_seconds: float
    started_at: datetime | None
    seen_at: datetime | None


def workers(broker: Broker) -> list[WorkerState]:
    """Return all workers by name; one round trip. Raises RedisUnavailable."""
    found = [_worker(*row) for row in broker.run_script("workers")]
    return sorted(found, key=lambda worker: worker.name)


def _worker(name: bytes, fields: Sequence[bytes], runs: Sequence[Sequence[bytes]]) -> WorkerState:
    text = {
        name.decode(): value.decode(errors="replace")
        for name, value in zip(fields[::2], fields[1::2], strict=True)
    }
    # Each queue is three of RQ's.
    queues = dict.fromkeys(name.partition(":")[0] for name in text.get("queues", "").split(","))
    return WorkerState(
        name=name.decode(errors="replace"),
        state=text.get("state", "?"),
        host=text.get("hostname", ""),
        pid=_whole(text.get("pid")),
        queues=[queue for queue in queues if queue],
        process_slots=_whole(text.get("process_slots")),
        thread_slots=_whole(text.get("thread_slots")),
        jobs=sorted((_job(run) for run in runs), key=lambda job: job.id),
        completed=_whole(text.get("successful_job_count")) or 0,
        failed=_whole(text.get("failed_job_count")) or 0,
        busy_seconds=float(text.get("total_working_time") or 0),
        started_at=_time(text.get("birth")),
        seen_at=_time(text.get("last_heartbeat")),
    )


def _job(run: Sequence[Any]) -> RunningJob:
    job_id, type_name, queue, attempt, started = (part.decode(errors="replace") for part in run)
    return RunningJob(
        id=job_id,
        type=type_name,
        queue=queue,
        attempt=_whole(attempt) or 0,
        started_at=_time(started),
    )


def _whole(text: str | None) -> int | None:
    return int(text) if text and text.isdecimal() else None


def _time(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None
