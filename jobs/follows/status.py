"""How far the sync of a follow is, in the seeds' words."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from jobs.follows.lookup import find_follow
from jobs.records import Follow, FollowMode, db
from jobserver import Job, Principal, current
from jobserver.errors import JobNotFound, JobPurged

Status = Literal["waiting", "active", "completed", "failed"]

MONITORED = "This follow only monitors its source; no products are synced."


@dataclass(frozen=True, kw_only=True)
class SyncStatus:
    """The last sync of a follow; `status` is None for a follow that has none.

    `progress` is 0 to 100, `raw_status` RQ's word, `results` {"synced", "skipped", "errors"} once
    completed, `failed_reason` why it failed, `created_at` when the job was made.
    """

    follow_id: int
    status: Status | None
    progress: int
    job_id: str | None
    created_at: datetime
    raw_status: str | None = None
    message: str | None = None
    results: dict[str, Any] | None = None
    failed_reason: str | None = None


def get_sync_status(follow_id: int, *, seen_by: Principal | None = None) -> SyncStatus:
    """Return the status of a follow's sync. Raises FollowNotFound, RedisUnavailable."""
    follow = find_follow(follow_id, seen_by=seen_by)
    db.session.expunge(follow)
    db.session.rollback()
    if follow.mode != FollowMode.RESELL:
        return SyncStatus(
            follow_id=follow.id,
            status=None,
            progress=0,
            job_id=None,
            created_at=follow.created_at,
            message=MONITORED,
        )
    job_id = sync_job_id(follow.id)
    try:
        job = current.server().find(job_id)
    except (JobNotFound, JobPurged):
        return _remembered(follow, job_id=job_id)
    if job.source == "ledger" and job.status == "completed":
        return _remembered(follow, job_id=job_id)  # the follow has its whole result
    return _of_job(follow, job)


def sync_job_id(follow_id: int) -> str:
    """Return the id of a follow's sync; it is the key that the job type declares."""
    return f"follow-{follow_id}"


def _of_job(follow: Follow, job: Job) -> SyncStatus:
    status = job.seed_status
    return SyncStatus(
        follow_id=follow.id,
        status=status,
        progress=100 if status == "completed" else min(int(job.progress), 99),
        job_id=job.id,
        created_at=job.created_at or follow.created_at,
        raw_status=job.raw_status,
        message=job.message or None,
        results=job.result if status == "completed" else None,
        failed_reason=job.failed_reason,
    )


def _remembered(follow: Follow, *, job_id: str) -> SyncStatus:
    """Answer for a job that Redis does not hold: no longer, or not yet."""
    if follow.synced_at is None:
        return SyncStatus(
            follow_id=follow.id,
            status="waiting",
            progress=0,
            job_id=job_id,
            created_at=follow.created_at,
        )
    return SyncStatus(
        follow_id=follow.id,
        status="completed",
        progress=100,
        job_id=job_id,
        created_at=follow.synced_at,
        results={
            "synced": follow.synced,
            "skipped": follow.skipped,
            "errors": follow.errors,
        },
    )
