"""`/api/v1/jobs`: making, finding and steering jobs; polling one is polling.py's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import ceil
from typing import Any

from flask import Response, url_for
from marshmallow import Schema, ValidationError, fields, validate

from jobserver import current, payload, retries
from jobserver.broker import EnqueueRequest, Job
from jobserver.broker.listing import STATES, Place, Wanted
from jobserver.errors import Gone, JobServerError, WrongState
from jobserver.http import guard, paging, problems
from jobserver.http.blueprint import Blueprint
from jobserver.http.enqueue import AcceptedSchema, JobRequestSchema, prepared
from jobserver.http.idempotency import call_id, idempotent
from jobserver.http.polling import seen, unknown
from jobserver.http.schemas import (
    AttemptsSchema,
    JobSchema,
    JobSummarySchema,
    LogsSchema,
    ProblemSchema,
    ResultSchema,
    attempt_body,
    job_body,
    spent_body,
    summary_body,
)
from jobserver.ledger import runs

MOST_AT_ONCE = 1000

_LINKED = {"Location": "the job", "Retry-After": "seconds", "Link": 'rel="status"'}
ACCEPTED_HEADERS = {
    name: {"description": what, "schema": {"type": "string"}} for name, what in _LINKED.items()
}


class JobFilterSchema(paging.PageSchema):
    """Which jobs of a queue are listed."""

    type = fields.String(metadata={"description": "a job type's name"})
    state = fields.String(validate=validate.OneOf(STATES))
    keyPrefix = fields.String(metadata={"description": "of the job's key, or of its id"})
    createdFrom = fields.AwareDateTime()
    createdBefore = fields.AwareDateTime()


class JobsFilterSchema(JobFilterSchema):
    """Which jobs are listed."""

    queue = fields.String(metadata={"description": "name, key or alias"})


class OneRunSchema(Schema):
    """Which run of a job is meant."""

    run = fields.String(
        validate=validate.Regexp(r"^[0-9a-f]{1,32}$"),
        metadata={"description": "its id; the job's last run if none is named"},
    )


class BulkSchema(Schema):
    """Jobs to be made together."""

    jobs = fields.List(
        fields.Dict(keys=fields.String()),
        required=True,
        validate=validate.Length(1, MOST_AT_ONCE),
        metadata={"description": "each as `POST /api/v1/jobs` takes it"},
    )


class BulkResultSchema(Schema):
    """What became of one of them: a job with 202, or a problem with its own status."""

    status = fields.Integer(required=True)
    job = fields.Nested(AcceptedSchema)
    problem = fields.Nested(ProblemSchema)


class BulkAnswerSchema(Schema):
    """What became of each, in the order of the request."""

    items = fields.List(fields.Nested(BulkResultSchema), required=True)
    accepted = fields.Integer(required=True)
    refused = fields.Integer(required=True)


def blueprint() -> Blueprint:
    """Return the routes below `/api/v1/jobs`."""
    routes = Blueprint(
        "jobserver_jobs_v1",
        __name__,
        url_prefix="/api/v1/jobs",
        description="Making, finding and steering jobs",
    )
    guard.protect(routes, role="user")

    @routes.post("")
    @idempotent
    @routes.arguments(JobRequestSchema)
    @routes.response(202, AcceptedSchema, headers=ACCEPTED_HEADERS)
    @routes.alt_response(404, "NOT_FOUND")
    @routes.alt_response(409, "CONFLICT")
    @routes.alt_response(501, "NOT_IMPLEMENTED")
    @guard.needs("operator", owners=True)
    def create_job(order: Mapping[str, Any]) -> Response:
        """Make a job; while one with its key is active, that one is the answer (`duplicate`)."""
        request = prepared(order, asker=guard.principal(), call=call_id())
        made = current.server().submit([request])[0]
        if isinstance(made, JobServerError):
            raise made
        return accepted(made)

    @routes.post("/bulk")
    @idempotent
    @routes.arguments(BulkSchema)
    @routes.response(207, BulkAnswerSchema, description="What became of each")
    @guard.needs("operator", owners=True)
    def create_jobs(bulk: Mapping[str, Any]) -> Response:
        """Make up to 1,000 jobs; one that cannot be made leaves the others alone.

        Each is answered as by `POST /api/v1/jobs`: with 202 and the job, or with a problem, whose
        pointers begin at that job. Only a body that is no list of objects is refused as a whole.
        """
        body = _made_at_once(bulk["jobs"])
        return Response(payload.dumps(body), 207, content_type="application/json")

    @routes.get("")
    @routes.arguments(JobsFilterSchema, location="query")
    @routes.response(200, paging.listed(JobSummarySchema))
    @routes.alt_response(404, "NOT_FOUND")
    def list_jobs(asked: Mapping[str, Any]) -> Response:
        """List jobs, a page at a time.

        Running ones come first, then waiting ones in the order in which they will start, delayed
        ones by when they are due, failed, canceled and completed ones with the newest first. A page
        may hold fewer than `limit`, even none: go on while there is a `nextCursor`. A `user` finds
        own jobs only.
        """
        return listing(asked, queue=asked.get("queue"), of="jobs")

    @routes.delete("/<job_id>")
    @routes.response(200, JobSchema, description="Canceled")
    @routes.alt_response(202, schema=JobSchema, description="Running; told to stop", success=True)
    @routes.alt_response(409, "CONFLICT")
    @routes.alt_response(410, "GONE")
    @guard.needs("operator", owners=True)
    @guard.operator_action("job.cancel", role="user")
    def cancel_job(job_id: str) -> Response:
        """Cancel a job: one that waits never runs, a running one is told to stop."""
        job = _own(job_id)
        if job.source == "ledger":
            raise WrongState(f"Job {job_id!r} is {job.status}, and Redis has let it go")
        job = current.server().cancel(job_id)
        body = payload.dumps(job_body(job))
        return Response(body, 200 if job.is_ended else 202, content_type="application/json")

    @routes.post("/<job_id>/retry")
    @idempotent
    @routes.response(202, AcceptedSchema, headers=ACCEPTED_HEADERS)
    @routes.alt_response(409, "CONFLICT")
    @routes.alt_response(410, "GONE")
    @routes.alt_response(422, "UNPROCESSABLE_ENTITY")
    @guard.needs("operator", owners=True)
    @guard.operator_action("job.retry", role="user")
    def retry_job(job_id: str) -> Response:
        """Queue a failed or canceled job again, with its type's attempts on top of those it had.

        One that Redis has let go is enqueued anew with the payload that the ledger kept.
        """
        server, job = current.server(), _own(job_id)
        run = server.recall(job_id) if job.source == "ledger" else None
        return accepted(server.retry(job_id) if run is None else retries.retry(server, run))

    @routes.post("/<job_id>/promote")
    @idempotent
    @routes.response(202, AcceptedSchema, headers=ACCEPTED_HEADERS)
    @routes.alt_response(409, "CONFLICT")
    @guard.needs("operator")
    @guard.operator_action("job.promote")
    def promote_job(job_id: str) -> Response:
        """Let a delayed job, or one between two attempts, wait in line now."""
        return accepted(current.server().promote(job_id))

    @routes.get("/<job_id>/result")
    @routes.response(200, ResultSchema)
    @routes.alt_response(409, "CONFLICT")
    @routes.alt_response(410, "GONE")
    def show_result(job_id: str) -> Response:
        """Show what a completed job returned; 409 for one that is not completed.

        Of jobs that Redis has let go, the ledger has results of up to 1.5 KB; larger ones are 410.
        """
        job = _own(job_id)
        if job.status != "completed":
            raise WrongState(f"Job {job_id!r} is {job.status}; only completed ones have a result")
        run = current.server().recall(job_id) if job.source == "ledger" else None
        if run is not None and not run.has_result:
            raise Gone(f"The result of job {job_id!r} was too large for the ledger")
        body = payload.dumps({"id": job.id, "result": job.result})
        return Response(body, content_type="application/json")

    @routes.get("/<job_id>/attempts")
    @routes.response(200, AttemptsSchema)
    @routes.alt_response(410, "GONE")
    def list_attempts(job_id: str) -> Response:
        """List the ended attempts of a job, the oldest first; of many, the last ten.

        Of a job that Redis has let go, the ledger has all those of its last run.
        """
        server, job = current.server(), _own(job_id)
        run = server.recall(job_id) if job.source == "ledger" else None
        if run is None:
            items = [attempt_body(attempt) for attempt in server.attempts(job_id)]
        else:
            items = [spent_body(spent) for spent in runs.attempts(server.db, run)]
        return Response(payload.dumps({"items": items}), content_type="application/json")

    @routes.get("/<job_id>/logs")
    @routes.arguments(OneRunSchema, location="query")
    @routes.response(200, LogsSchema)
    @routes.alt_response(410, "GONE")
    def list_lines(asked: Mapping[str, str], job_id: str) -> Response:
        """List the lines that a run has logged, of the job's last run if none is named.

        They are the last 200, or 64 KiB, of all its attempts; `dropped` is how many came before.
        """
        server = current.server()
        run = asked.get("run") or _own(job_id).run_id
        if "run" in asked and not _is_seen(job_id, run):
            raise unknown(job_id)
        lines = server.lines(job_id, run)
        items = [{"number": number, **line} for number, line in lines]
        body = {"run": run, "dropped": lines[0][0] - 1 if lines else 0, "items": items}
        return Response(payload.dumps(body), content_type="application/json")

    return routes


def accepted(job: Job) -> Response:
    """Return the 202 for a job that will run (RFC 9110 §15.3.3, RFC 8631)."""
    body = accepted_body(job)
    url = body["statusUrl"]
    headers = {
        "Location": url,
        "Retry-After": str(ceil(current.server().config.poll_interval)),
        "Link": f'<{url}>; rel="status"',
    }
    return Response(payload.dumps(body), 202, headers=headers, content_type="application/json")


def accepted_body(job: Job) -> dict[str, Any]:
    """Return a job as AcceptedSchema describes it."""
    url = url_for("jobserver_polling.get_job", job_id=job.id)
    return {
        "id": job.id,
        "status": job.status,
        "statusUrl": url,
        "eventsUrl": f"{url}/events",
        "duplicate": job.duplicate,
    }


def listing(asked: Mapping[str, Any], *, queue: str | None, of: str) -> Response:
    """Return the page of jobs that a JobFilter asks for."""
    wanted = Wanted(
        states=(asked["state"],) if "state" in asked else STATES,
        type=asked.get("type"),
        key_prefix=asked.get("keyPrefix"),
        created_from=asked.get("createdFrom"),
        created_before=asked.get("createdBefore"),
    )
    asker = guard.principal()
    if asker.role == "user":
        wanted = replace(wanted, owner=asker.owner or "")
    # A cursor fits the list of the same states only: it names one.
    of = f"{of} {queue} {asked.get('state')}"
    held = paging.place(asked.get("cursor"), of=of)
    after = Place(state=held[0], sort=held[1], id=held[2]) if held else None
    jobs, last = current.server().search(wanted, queue=queue, after=after, limit=asked["limit"])
    query = {
        name: value.isoformat() if hasattr(value, "isoformat") else value
        for name, value in asked.items()
    }
    body, headers = paging.page(
        [summary_body(job) for job in jobs],
        behind=(last.state, last.sort, last.id) if last else None,
        of=of,
        asked=query,
    )
    return Response(payload.dumps(body), headers=headers, content_type="application/json")


def _own(job_id: str) -> Job:
    return seen(job_id, principal=guard.principal())


def _is_seen(job_id: str, run: str) -> bool:
    """Tell whether a run is this job's, and one that the asker may see."""
    server, asker = current.server(), guard.principal()
    job = server.broker.fetch_many([job_id])[0]
    if job is not None and job.run_id == run:
        return asker.sees(job.owner)
    past = server.recall_run(run)
    return past is not None and past.job == job_id and asker.sees(past.owner)


def _made_at_once(orders: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    asker, call = guard.principal(), call_id()
    schema = JobRequestSchema()
    results: dict[int, dict[str, Any]] = {}
    requests: dict[int, EnqueueRequest] = {}
    for number, order in enumerate(orders):
        try:
            values = schema.load(order)
            named = f"{call}-{number}" if call else None
            requests[number] = prepared(values, asker=asker, call=named)
        except (ValidationError, JobServerError) as error:
            if isinstance(error, JobServerError) and error.status >= 500:
                raise
            results[number] = _refused(error)
    made = current.server().submit(list(requests.values()))
    for number, job in zip(requests, made, strict=True):
        if isinstance(job, Job):
            results[number] = {"status": 202, "job": accepted_body(job)}
        else:
            results[number] = _refused(job)
    items = [results[number] for number in range(len(orders))]
    accepted_count = sum("job" in item for item in items)
    return {
        "items": items,
        "accepted": accepted_count,
        "refused": len(items) - accepted_count,
    }


def _refused(error: Exception) -> dict[str, Any]:
    problem = problems.body(error)
    return {"status": problem["status"], "problem": problem}
