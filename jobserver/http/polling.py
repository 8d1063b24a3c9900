"""`GET /api/v1/jobs/<id>`: one job, for pollers; nothing is read twice and no SQL is."""

from __future__ import annotations

from flask import Blueprint, Response, request

from jobserver import current, payload
from jobserver.broker import Job
from jobserver.errors import JobNotFound
from jobserver.http import guard
from jobserver.http.schemas import job_body


def blueprint() -> Blueprint:
    """Return the route of one job below `/api/v1/jobs`."""
    routes = Blueprint("jobserver_polling", __name__, url_prefix="/api/v1/jobs")
    guard.protect(routes, role="user")

    @routes.get("/<job_id>")
    def get_job(job_id: str) -> Response:
        """Poll one job: weak ETag, 304 while nothing changed, `retryAfter` in the body."""
        if request.if_none_match and (known := _known_version(job_id)):
            return _answer(known, status=304)
        job = visible(job_id, current.server().fetch(job_id))
        return _answer(job.version, payload.dumps(job_body(job)))

    return routes


def visible(job_id: str, job: Job) -> Job:
    """Return the job; raises JobNotFound if it is not the asker's to see."""
    if not guard.principal().sees(job.owner):
        raise unknown(job_id)
    return job


def unknown(job_id: str) -> JobNotFound:
    """Return the one answer for jobs that are not there and those that others own.

    With two answers a user could find out which jobs others have.
    """
    return JobNotFound(f"No job with id {job_id!r} is known")


def _known_version(job_id: str) -> str | None:
    """Return the job's version if it is one that the asker named in If-None-Match."""
    version, owner = current.server().broker.version(job_id)
    if not guard.principal().sees(owner):
        raise unknown(job_id)
    return version if request.if_none_match.contains_weak(version) else None


def _answer(version: str, body: bytes = b"", *, status: int = 200) -> Response:
    response = Response(body, status, content_type="application/json" if body else None)
    response.headers["ETag"] = f'W/"{version}"'
    response.headers["Cache-Control"] = "private, no-cache"
    response.headers["Vary"] = "Authorization, Cookie, Prefer"
    return response
