"""`/api/v1/jobs`: the canonical job API."""

from __future__ import annotations

import hashlib
from typing import Any

from flask import Blueprint, Response, request

from jobserver import current, payload
from jobserver.broker import Job
from jobserver.errors import JobNotFound
from jobserver.http import guard
from jobserver.http.schemas import JobSchema

_SCHEMA = JobSchema()


def blueprint() -> Blueprint:
    """Return the routes below `/api/v1/jobs`."""
    routes = Blueprint("jobserver_jobs_v1", __name__, url_prefix="/api/v1/jobs")
    guard.protect(routes, role="user")

    @routes.get("/<job_id>")
    def get_job(job_id: str) -> Response:
        """Poll one job: weak ETag, 304 while nothing changed, `retryAfter` in the body."""
        body: dict[str, Any] = _SCHEMA.dump(_visible_job(job_id))
        tag = _etag(body)
        headers = {
            "ETag": f'W/"{tag}"',
            "Cache-Control": "private, no-cache",
            "Vary": "Authorization, Cookie, Prefer",
        }
        if request.if_none_match.contains_weak(tag):
            return Response(status=304, headers=headers)
        return Response(payload.dumps(body), headers=headers, content_type="application/json")

    return routes


def _visible_job(job_id: str) -> Job:
    try:
        job = current.server().fetch(job_id)
    except JobNotFound:
        job = None
    if job is None or not guard.principal().sees(job.owner):
        # One answer for both, or a user could find out which jobs others have.
        raise JobNotFound(f"No job with the id {job_id!r} is known.")
    return job


def _etag(body: dict[str, Any]) -> str:
    # retryAfter follows the clock, not the job.
    stable = {name: value for name, value in body.items() if name != "retryAfter"}
    return hashlib.blake2b(payload.dumps(stable), digest_size=12).hexdigest()
