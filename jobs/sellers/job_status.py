"""How the fetching of users' data stands; of ended jobs, as long as Redis keeps them."""

from typing import Any

from jobs.queues import USER_DATA
from jobserver import Job, current
from jobserver.errors import JobNotFound

RECENT = ("active", "completed", "failed", "canceled")


def user_job_id(user_id: str) -> str:
    """Return the id of a user's job: no user is processed twice at a time."""
    return f"user-{user_id}"


def get_user_status(user_id: str) -> Job:
    """Return the latest job of a user; raises JobNotFound."""
    try:
        return get_job(user_job_id(user_id))
    except JobNotFound:
        raise JobNotFound(f"No job of the user {user_id!r} is known") from None


def get_job(job_id: str) -> Job:
    """Return a job of user-data; raises JobNotFound."""
    job = current.server().fetch(job_id)
    if job.queue != USER_DATA.name:
        raise JobNotFound(f"No job of {USER_DATA.name} has the id {job_id!r}")
    return job


def get_recent(*, limit: int) -> list[Job]:
    """Return the jobs that started last, the newest first."""
    found = current.server().overview(USER_DATA.name, states=RECENT, end=limit - 1)
    started = [job for job in found.jobs if job.started_at is not None]
    return sorted(started, key=_start, reverse=True)[:limit]


def get_failed(*, limit: int) -> list[Job]:
    """Return the failed jobs, the newest first."""
    return current.server().failed(USER_DATA.name, start=0, end=limit - 1)


def get_queue_stats() -> dict[str, int]:
    """Return how many jobs are waiting, active, completed, failed, delayed and paused."""
    return current.server().statistics()[USER_DATA.name].bull_counts


def remove_job(job_id: str) -> Job:
    """Cancel a job; raises JobNotFound, and WrongState for one that has ended."""
    return current.server().cancel(get_job(job_id).id)


def _start(job: Job) -> Any:
    return job.started_at
