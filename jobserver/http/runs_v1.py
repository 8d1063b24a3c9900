"""`/api/v1/runs`: the ledger. Every run there was, how it ended, and its attempts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from flask import Response
from marshmallow import Schema, ValidationError, fields, validate

from jobserver import current, payload, retries
from jobserver.broker.entry import LAST_YEAR
from jobserver.errors import Forbidden, PayloadInvalid, RunNotFound
from jobserver.http import guard, paging
from jobserver.http.blueprint import Blueprint
from jobserver.http.enqueue import AcceptedSchema, in_payload
from jobserver.http.idempotency import call_id, idempotent
from jobserver.http.jobs_v1 import ACCEPTED_HEADERS, accepted
from jobserver.http.schemas import ErrorSchema, SpentAttemptSchema, spent_body
from jobserver.ledger import dead_letters, runs
from jobserver.ledger.runs import STATES, Attempt, Run, Sought
from jobserver.policy import PRIORITIES

SHORT = validate.Length(max=500)  # as keys over HTTP; it is audited, too


class Moment(fields.AwareDateTime):
    """A time in years that both databases and all time zones have."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> datetime:
        moment: datetime = super()._deserialize(value, attr, data, **kwargs)
        if not 1970 <= moment.year < LAST_YEAR:
            raise ValidationError(f"Must be between the years 1970 and {LAST_YEAR}.")
        return moment


class SoughtSchema(Schema):
    """Which runs are sought."""

    job = fields.String(validate=SHORT, metadata={"description": "a job's id"})
    type = fields.String(validate=SHORT, metadata={"description": "a job type's name"})
    queue = fields.String(validate=SHORT, metadata={"description": "name, key or alias"})
    key = fields.String(validate=SHORT)
    owner = fields.String(validate=SHORT)
    organization = fields.String(validate=SHORT)
    trace = fields.String(validate=SHORT)
    fingerprint = fields.String(
        validate=SHORT, metadata={"description": "what failures of one cause share"}
    )
    error = fields.String(
        validate=SHORT, metadata={"description": "part of a failed run's message, in any case"}
    )
    enqueuedFrom = Moment()
    enqueuedBefore = Moment()


class RunFilterSchema(SoughtSchema, paging.PageSchema):
    """Which runs are listed."""

    state = fields.String(validate=validate.OneOf(STATES))


class RunSummarySchema(Schema):
    """One run of a job; `purged` is one whose job somebody removed before it ended."""

    id = fields.String(required=True)
    jobId = fields.String(required=True)
    type = fields.String(required=True)
    queue = fields.String(required=True)
    priority = fields.String(required=True, validate=validate.OneOf(PRIORITIES))
    key = fields.String(required=True, allow_none=True)
    owner = fields.String(required=True, allow_none=True)
    organization = fields.String(required=True, allow_none=True)
    trace = fields.String(required=True, allow_none=True)
    status = fields.String(required=True, validate=validate.OneOf(STATES))
    attempt = fields.Integer(required=True, metadata={"description": "0 before the first"})
    attempts = fields.Integer(required=True, metadata={"description": "allowed in all"})
    enqueuedAt = fields.AwareDateTime(required=True)
    dueAt = fields.AwareDateTime(required=True, allow_none=True)
    startedAt = fields.AwareDateTime(required=True, allow_none=True)
    endedAt = fields.AwareDateTime(required=True, allow_none=True)
    waitMs = fields.Integer(
        required=True, allow_none=True, metadata={"description": "until the first attempt"}
    )
    runMs = fields.Integer(
        required=True, allow_none=True, metadata={"description": "of the last attempt"}
    )
    worker = fields.String(required=True, allow_none=True)
    host = fields.String(required=True, allow_none=True)
    error = fields.Nested(ErrorSchema, required=True, allow_none=True)
    reason = fields.String(required=True, allow_none=True)
    fingerprint = fields.String(required=True, allow_none=True)
    purgedAt = fields.AwareDateTime(
        required=True, allow_none=True, metadata={"description": "when somebody removed its job"}
    )
    settledAt = fields.AwareDateTime(
        required=True,
        allow_none=True,
        metadata={"description": "since when a failed run is no dead letter"},
    )


class RunSchema(RunSummarySchema):
    """One run, with what it was given, what it returned, and its attempts."""

    payload = fields.Raw(
        required=True,
        allow_none=True,
        metadata={"description": "without its marked fields; null when it was too large to keep"},
    )
    result = fields.Raw(
        required=True, allow_none=True, metadata={"description": "null when too large to keep"}
    )
    attemptsMade = fields.List(fields.Nested(SpentAttemptSchema), required=True)


class EditSchema(Schema):
    """With which payload a run is retried; its own if not said."""

    payload = fields.Dict(keys=fields.String())


class DiscardedSchema(Schema):
    """How many dead letters were discarded; `more`: as many as one call takes were met."""

    discarded = fields.Integer(required=True)
    more = fields.Boolean(required=True)


def blueprint() -> Blueprint:
    """Return the routes below `/api/v1/runs`."""
    routes = Blueprint(
        "jobserver_runs_v1",
        __name__,
        url_prefix="/api/v1/runs",
        description="The record of all runs",
    )
    guard.protect(routes, role="user")

    @routes.get("")
    @routes.arguments(RunFilterSchema, location="query")
    @routes.response(200, paging.listed(RunSummarySchema))
    @routes.alt_response(404, "NOT_FOUND")
    @routes.alt_response(501, "NOT_IMPLEMENTED")
    def list_runs(asked: Mapping[str, Any]) -> Response:
        """List runs, the newest first, a page at a time.

        A page may hold fewer than `limit`, even none: go on while there is a `nextCursor`. The
        ledger follows Redis within a second or so. A `user` finds runs of own jobs only.
        """
        wanted = replace(sought(asked), state=asked.get("state"))
        asker = guard.principal()
        if asker.role == "user":
            if wanted.owner not in (None, asker.owner):
                return _page([], None, asked)
            wanted = replace(wanted, owner=asker.owner or "")
        place = paging.place(asked.get("cursor"), of="runs")
        found, last = runs.find(
            current.server().db,
            wanted,
            before=place[0] if place else None,
            limit=asked["limit"],
        )
        return _page(found, last, asked)

    @routes.get("/<run_id>")
    @routes.response(200, RunSchema)
    @routes.alt_response(501, "NOT_IMPLEMENTED")
    def show_run(run_id: str) -> Response:
        """Show one run, with its payload, result and attempts."""
        run = _own(run_id)
        body = run_body(run, attempts=runs.attempts(current.server().db, run))
        return Response(payload.dumps(body), content_type="application/json")

    @routes.post("/<run_id>/retry")
    @idempotent
    @routes.arguments(EditSchema, required=False)
    @routes.response(202, AcceptedSchema, headers=ACCEPTED_HEADERS)
    @routes.alt_response(409, "CONFLICT")
    @routes.alt_response(501, "NOT_IMPLEMENTED")
    @guard.needs("operator", owners=True)
    @guard.operator_action("run.retry", role="user")
    def retry_run(edit: Mapping[str, Any], run_id: str) -> Response:
        """Retry a failed or canceled run, with another payload if one is given.

        Redis goes on with it while it has the job; else, and with another payload, its job gets a
        new run. 409 unless it is the last run of its job.
        """
        run, server = _own(run_id), current.server()
        if "payload" in edit and guard.principal().role == "user":
            raise Forbidden("Another payload takes an operator; make a new job instead.")
        try:
            job = retries.retry(server, run, payload=edit.get("payload"), call=call_id())
        except PayloadInvalid as error:
            raise in_payload(error) from None
        return accepted(job)

    @routes.post("/<run_id>/discard")
    @routes.response(200, DiscardedSchema)
    @routes.alt_response(501, "NOT_IMPLEMENTED")
    @guard.needs("operator")
    @guard.operator_action("run.discard")
    def discard_run(run_id: str) -> Response:
        """Let a failed run be a dead letter no more; it stays on record."""
        run = _own(run_id)
        count = dead_letters.settle(current.server().db, [run.run])
        return Response(
            payload.dumps({"discarded": count, "more": False}), content_type="application/json"
        )

    return routes


def sought(asked: Mapping[str, Any]) -> Sought:
    """Return what a SoughtSchema asks for; raises UnknownQueue."""
    queue = asked.get("queue")
    return Sought(
        job=asked.get("job"),
        type=asked.get("type"),
        key=asked.get("key"),
        owner=asked.get("owner"),
        organization=asked.get("organization"),
        trace=asked.get("trace"),
        fingerprint=asked.get("fingerprint"),
        error=asked.get("error"),
        queue=current.server().registry.queue(queue).name if queue else None,
        enqueued_from=asked.get("enqueuedFrom"),
        enqueued_before=asked.get("enqueuedBefore"),
    )


def query_of(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return a query as it was asked, for the link to the next page."""
    return {
        name: value.isoformat() if isinstance(value, datetime) else value
        for name, value in asked.items()
    }


def run_summary(run: Run) -> dict[str, Any]:
    """Return a run as RunSummarySchema describes it."""
    failed = run.error_type is not None or run.error_message is not None
    return {
        "id": run.run,
        "jobId": run.job,
        "type": run.type,
        "queue": run.queue,
        "priority": run.priority,
        "key": run.key,
        "owner": run.owner,
        "organization": run.organization,
        "trace": run.trace,
        "status": run.state,
        "attempt": run.attempt,
        "attempts": run.attempts,
        "enqueuedAt": run.enqueued_at,
        "dueAt": run.due_at,
        "startedAt": run.started_at,
        "endedAt": run.ended_at,
        "waitMs": run.wait_ms,
        "runMs": run.run_ms,
        "worker": run.worker,
        "host": run.host,
        "error": {"type": run.error_type or "", "message": run.error_message or ""}
        if failed
        else None,
        "reason": run.reason,
        "fingerprint": run.fingerprint,
        "purgedAt": run.purged_at,
        "settledAt": run.settled_at,
    }


def run_body(run: Run, *, attempts: list[Attempt]) -> dict[str, Any]:
    """Return a run as RunSchema describes it."""
    return {
        **run_summary(run),
        # Once more: what is marked by now may not have been when the run was recorded.
        "payload": current.server().redacted(run.type, run.payload),
        "result": run.result,
        "attemptsMade": [
            {
                **spent_body(attempt),
                "reason": attempt.reason,
                "exitReason": attempt.exit_reason,
                "peakRss": attempt.peak_rss,
            }
            for attempt in attempts
        ],
    }


def _page(found: list[Run], last: str | None, asked: Mapping[str, Any]) -> Response:
    body, headers = paging.page(
        [run_summary(run) for run in found],
        behind=[last] if last else None,
        of="runs",
        asked=query_of(asked),
    )
    return Response(payload.dumps(body), headers=headers, content_type="application/json")


def _own(run_id: str) -> Run:
    run = runs.get(current.server().db, run_id)
    if run is None or not guard.principal().sees(run.owner):
        raise RunNotFound(f"No run with id {run_id!r} is known")
    return run
