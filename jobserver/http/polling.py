"""`GET /api/v1/jobs/<id>`: one job, for pollers, who may ask to be answered when it has changed.

An unchanged job costs one round trip to Redis. SQL is read only of jobs that Redis has let go: the
ledger knows how they ended.
"""

from __future__ import annotations

import re
import time

from flask import Response, request

from jobserver import current, payload
from jobserver.auth import Principal
from jobserver.broker import Job
from jobserver.errors import JobNotFound, PayloadInvalid
from jobserver.http import guard
from jobserver.http.blueprint import Blueprint
from jobserver.http.schemas import JobSchema, job_body
from jobserver.live import Watch

LONGEST_WAIT = 30  # seconds

_PREFERENCE = re.compile(r'(?:^|,)\s*wait\s*=\s*"?([0-9]+)"?\s*(?=[;,]|$)', re.IGNORECASE)

_PARAMETERS = [
    {
        "in": "query",
        "name": "wait",
        "description": f"seconds to wait for a change, at most {LONGEST_WAIT}",
        "schema": {"type": "integer", "minimum": 0},
    },
    {"in": "header", "name": "If-None-Match", "schema": {"type": "string"}},
    {"in": "header", "name": "Prefer", "schema": {"type": "string", "example": "wait=25"}},
]


def blueprint() -> Blueprint:
    """Return the route of one job below `/api/v1/jobs`."""
    routes = Blueprint(
        "jobserver_polling", __name__, url_prefix="/api/v1/jobs", description="One job, for pollers"
    )
    guard.protect(routes, role="user")

    @routes.get("/<job_id>")
    @routes.response(200, JobSchema)
    @routes.alt_response(304, success=True, description="It is as If-None-Match says")
    @routes.alt_response(410, "GONE")
    @routes.doc(parameters=_PARAMETERS)
    def get_job(job_id: str) -> Response:
        """Poll one job: weak ETag, 304 while nothing changed, `retryAfter` in the body.

        With `?wait=` or `Prefer: wait=` seconds (RFC 7240), answer as soon as it has changed. A job
        that retention has removed is shown as its last run left it (`source` is `ledger`); one that
        somebody removed is 410.
        """
        seconds = _wait()
        if not seconds:
            return _answer(job_id)
        with current.server().lookout.watching(job_id) as watch:
            if watch is None:  # as many wait as may: this one has to come again
                return _answer(job_id)
            job = _changed(watch, seconds=seconds)
        response = _answer(job_id) if job is None else _whole(job)
        response.headers["Preference-Applied"] = f"wait={seconds}"
        return response

    return routes


def seen(job_id: str, *, principal: Principal) -> Job:
    """Return a job as it stands, or as its last run left it; raises as `visible` does."""
    job = current.server().broker.fetch_many([job_id])[0]
    return visible(job_id, job, principal=principal)


def visible(job_id: str, job: Job | None, *, principal: Principal) -> Job:
    """Return the job, that of the ledger where Redis has none.

    Raises JobNotFound if it is not there, or not the principal's to see, and JobPurged.
    """
    if job is not None:
        if not principal.sees(job.owner):
            raise unknown(job_id)
        return job
    run = current.server().recall(job_id)
    if run is None or not principal.sees(run.owner):
        raise unknown(job_id)
    return run.as_job


def unknown(job_id: str) -> JobNotFound:
    """Return the one answer for jobs that are not there and those that others own.

    With two answers a user could find out which jobs others have.
    """
    return JobNotFound(f"No job with id {job_id!r} is known")


def _answer(job_id: str) -> Response:
    """Answer how the job stands: 304 if the asker knows."""
    server, principal = current.server(), guard.principal()
    known = request.if_none_match
    if known:
        try:
            version, owner = server.broker.version(job_id)
        except JobNotFound:
            version, owner = "", None
        if version and not principal.sees(owner):
            raise unknown(job_id)
        if version and known.contains_weak(version):
            return _tagged(Response(status=304), version)
    job = seen(job_id, principal=principal)
    if job.source == "ledger" and known.contains_weak(job.version):
        return _tagged(Response(status=304), job.version)
    return _whole(job)


def _changed(watch: Watch, *, seconds: int) -> Job | None:
    """Wait for the job to be another than the asker knows; None when it is not, in that time.

    Who names no version in If-None-Match waits for a change of what there is, unless it has ended.
    """
    principal, known = guard.principal(), request.if_none_match
    deadline = time.monotonic() + seconds
    first: Job | None = None
    while news := watch.wait(deadline - time.monotonic()):
        job = visible(watch.job_id, news.job, principal=principal)
        if known:
            is_changed = not known.contains_weak(job.version)
        else:
            first = first or job
            is_changed = job.version != first.version or job.is_ended
        if is_changed:
            return job
    return None


def _wait() -> int:
    """Return the seconds that the asker would wait, at most LONGEST_WAIT."""
    if not request.query_string and "HTTP_PREFER" not in request.environ:
        return 0  # most polls: nothing has to be parsed
    asked = request.args.get("wait")
    if asked is not None and not re.fullmatch(r"[0-9]+", asked):
        detail = f"Must be seconds, a whole number; at most {LONGEST_WAIT} are waited."
        raise PayloadInvalid(errors=[{"pointer": "#/wait", "detail": detail}])
    if asked is None:
        preference = _PREFERENCE.search(request.headers.get("Prefer", ""))
        asked = preference[1] if preference else "0"
    digits = asked.lstrip("0") or "0"
    return min(int(digits), LONGEST_WAIT) if len(digits) < 3 else LONGEST_WAIT


def _whole(job: Job) -> Response:
    body = payload.dumps(job_body(job))
    return _tagged(Response(body, content_type="application/json"), job.version)


def _tagged(response: Response, version: str) -> Response:
    headers = response.headers
    headers["ETag"] = f'W/"{version}"'
    headers["Cache-Control"] = "private, no-cache"
    headers["Vary"] = "Authorization, Cookie, Prefer"
    return response
