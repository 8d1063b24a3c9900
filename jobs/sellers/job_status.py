"""How the fetching of users' data stands: from Redis, and behind that from the ledger."""

import logging
from collections.abc import Sequence
from operator import itemgetter

from jobs.queues import USER_DATA
from jobserver import Job, current
from jobserver.errors import DatabaseUnavailable, JobNotFound

RECENT = ("active", "completed", "failed", "canceled")

logger = logging.getLogger(__name__)


def user_job_id(user_id: str) -> str:
    """Return the id of a user's job: no user is processed twice at a time."""
    return f"user-{user_id}"


def get_user_status(user_id: str) -> Job:
    """Return the latest job of a user; raises as `get_job` does."""
    try:
        return get_job(user_job_id(user_id))
    except JobNotFound:
        raise JobNotFound(f"No job of the user {user_id!r} is known") from None


def get_job(job_id: str) -> Job:
    """Return a job of user-data; raises JobNotFound, JobPurged, DatabaseUnavailable."""
    job = current.server().find(job_id)
    if job.queue != USER_DATA.name:
        raise JobNotFound(f"No job of {USER_DATA.name} has the id {job_id!r}")
    return job


def get_recent(*, limit: int) -> list[Job]:
    """Return the runs that started last, the newest first."""
    found = current.server().overview(USER_DATA.name, states=RECENT, end=limit - 1).jobs
    known = [*found, *_behind(found, limit=limit)]
    started = [(job.started_at, job.run_id, job) for job in known if job.started_at is not None]
    return [job for *_, job in sorted(started, key=itemgetter(0, 1), reverse=True)[:limit]]


def get_failed(*, limit: int) -> list[Job]:
    """Return the jobs that failed and have not run since, the newest first."""
    found = current.server().failed(USER_DATA.name, start=0, end=limit - 1)
    return [*found, *_behind(found, limit=limit, is_dead=True)][:limit]


def get_queue_stats() -> dict[str, int]:
    """Return how many jobs are waiting, active, completed, failed, delayed and paused."""
    return current.server().statistics()[USER_DATA.name].bull_counts


def remove_job(job_id: str) -> Job:
    """Cancel a job; raises JobNotFound, and WrongState for one that has ended."""
    return current.server().cancel(get_job(job_id).id)


def _behind(found: Sequence[Job], *, limit: int, is_dead: bool = False) -> list[Job]:
    """Return what the ledger has beyond what was found in Redis, if that is too little."""
    if len(found) >= limit:
        return []
    server, known = current.server(), {job.run_id for job in found}
    try:
        recorded = server.recalled(USER_DATA.name, is_dead=is_dead, limit=limit + len(found))
    except DatabaseUnavailable as error:
        logger.warning("only what Redis keeps of %s is listed: %s", USER_DATA.name, error)
        return []
    return [job for job in recorded if job.run_id not in known]
