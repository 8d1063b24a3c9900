"""A lightweight job server for Flask teams, on RQ."""

from collections.abc import Mapping, Sequence
from typing import Any

from jobserver import current, errors
from jobserver.app import JobServer
from jobserver.auth import Principal, Role
from jobserver.broker import Job
from jobserver.config import Config
from jobserver.job_type import JobType, job
from jobserver.listener import JobEvent, on
from jobserver.outcomes import Discard, JobCanceled, RateLimited, Snooze
from jobserver.policy import Backoff, Policy, Queue, Retention, exponential, fixed, steps
from jobserver.progress import cancel_requested, current_run, progress, scheduled_at
from jobserver.schedule import Cron, Every

__all__ = [
    "Backoff",
    "Config",
    "Cron",
    "Discard",
    "Every",
    "Job",
    "JobCanceled",
    "JobEvent",
    "JobServer",
    "JobType",
    "Policy",
    "Principal",
    "Queue",
    "RateLimited",
    "Retention",
    "Role",
    "Snooze",
    "cancel_requested",
    "current_run",
    "enqueue",
    "enqueue_many",
    "errors",
    "exponential",
    "fixed",
    "job",
    "on",
    "progress",
    "scheduled_at",
    "steps",
]


def enqueue(
    job_type: str | JobType, payload: Mapping[str, object] | None = None, **options: Any
) -> Job:
    """Enqueue one job on the current server; the options are those of `JobServer.enqueue`."""
    return current.server().enqueue(job_type, payload, **options)


def enqueue_many(
    job_type: str | JobType, payloads: Sequence[Mapping[str, object]], **options: Any
) -> list[Job]:
    """Enqueue a job per payload on the current server, as `JobServer.enqueue_many` does."""
    return current.server().enqueue_many(job_type, payloads, **options)
