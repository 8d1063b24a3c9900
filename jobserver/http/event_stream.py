"""`/api/v1/jobs/<id>/events`: a job's changes as Server-Sent Events (HTML standard, §9.2)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from flask import Response, request, url_for
from marshmallow import Schema, fields

from jobserver import current, payload
from jobserver.auth import TICKET_SECONDS, Principal
from jobserver.broker import Event, Job
from jobserver.http import guard
from jobserver.http.blueprint import Blueprint
from jobserver.http.polling import seen, visible
from jobserver.http.schemas import job_body
from jobserver.live import Watch

HEARTBEAT = 15.0  # seconds
LONGEST = 600.0  # seconds of one stream: then the client must prove again who it is
RECONNECT = 2000  # milliseconds
LAST_WORDS = 0.5  # seconds that the end of a job waits for events from before it

_HEADERS = {
    "Cache-Control": "no-cache",
    "Vary": "Authorization, Cookie",
    "X-Accel-Buffering": "no",  # nginx would hold the events back
}


class TicketSchema(Schema):
    """What opens the event stream of one job without a header."""

    ticket = fields.String(required=True)
    eventsUrl = fields.String(required=True, metadata={"description": "with the ticket in it"})
    expiresIn = fields.Integer(required=True, metadata={"description": "seconds"})


class EventSchema(Schema):
    """One event of the stream; `data` is JSON."""

    event = fields.String(required=True)
    data = fields.String(required=True)
    id = fields.String(metadata={"description": "the job's version"})
    retry = fields.Integer(metadata={"description": "milliseconds"})


def blueprint() -> Blueprint:
    """Return the routes of one job's stream below `/api/v1/jobs`."""
    routes = Blueprint(
        "jobserver_event_stream",
        __name__,
        url_prefix="/api/v1/jobs",
        description="One job's changes as they happen",
    )
    guard.protect(routes, role="user")

    @routes.get("/<job_id>/events")
    @routes.response(200, EventSchema, content_type="text/event-stream")
    @routes.alt_response(204, success=True, description="The stream has ended, as was known")
    @routes.alt_response(410, "GONE")
    @routes.doc(parameters=[{"in": "query", "name": "ticket", "schema": {"type": "string"}}])
    @guard.needs("user", ticket=True)
    def stream(job_id: str) -> Response:
        """Follow one job: its state at first, then `progress`, `state` and `log`, at last `end`.

        `state`, `progress` and `end` carry the job as `GET /api/v1/jobs/<id>` answers it, `log`
        {"at", "event", "message"}, with "level" where the job logged it. The stream closes after
        `end`.
        """
        server, principal = current.server(), guard.principal()
        app, gate, credential = current.application(), guard.gate(), guard.credential()

        def stands() -> bool:
            with app.app_context():
                return gate.stands(credential)

        watch = server.lookout.watch(job_id)
        if watch is None:  # as many wait as may: this one has to come again
            job = seen(job_id, principal=principal)
            return _stream(_first(job, retry=int(1000 * server.config.poll_interval)))
        try:
            news = watch.wait(HEARTBEAT)
            job = visible(job_id, news.job if news else None, principal=principal)
        except BaseException:
            server.lookout.leave(watch)
            raise
        if job.is_ended and request.headers.get("Last-Event-ID") == job.version:
            server.lookout.leave(watch)
            return Response(status=204, headers=_HEADERS)  # tells an EventSource to stay away
        response = _stream(_changes(watch, first=job, principal=principal, stands=stands))
        response.call_on_close(lambda: server.lookout.leave(watch))
        return response

    @routes.post("/<job_id>/ticket")
    @routes.response(201, TicketSchema)
    @routes.alt_response(410, "GONE")
    def create_ticket(job_id: str) -> Response:
        """Make a ticket, which opens this job's event stream within a minute."""
        seen(job_id, principal=guard.principal())
        ticket = guard.gate().issue_ticket(guard.credential(), job_id=job_id)
        body = {
            "ticket": ticket,
            "eventsUrl": url_for(".stream", job_id=job_id, ticket=ticket),
            "expiresIn": TICKET_SECONDS,
        }
        response = Response(payload.dumps(body), 201, content_type="application/json")
        response.headers["Cache-Control"] = "no-store"
        return response

    return routes


def _stream(events: Iterator[bytes]) -> Response:
    return Response(events, headers=_HEADERS, content_type="text/event-stream")


def _first(job: Job, *, retry: int = RECONNECT) -> Iterator[bytes]:
    yield b"retry: %d\n" % retry + _event("state", job_body(job), version=job.version)
    if job.is_ended:
        yield _event("end", job_body(job), version=job.version)


def _changes(
    watch: Watch, *, first: Job, principal: Principal, stands: Callable[[], bool]
) -> Iterator[bytes]:
    """Yield the events of a stream until its job has ended, or may not be seen any more."""
    yield from _first(first)
    job, closing = first, time.monotonic() + LONGEST
    while not job.is_ended and time.monotonic() < closing:
        news = watch.wait(HEARTBEAT)
        if watch.is_over or not stands():
            return
        if news is None:
            yield b":\n\n"
            continue
        yield from _logs(news.events)
        before, job_now = job, news.job
        if job_now is None or not principal.sees(job_now.owner):
            return
        job = job_now
        if job.is_ended:
            yield from _last_words(watch, job, told=news.events)
        if job.version != before.version:
            yield _event(_name(before, job), job_body(job), version=job.version)


def _last_words(watch: Watch, job: Job, *, told: Sequence[Event]) -> Iterator[bytes]:
    """Yield what a job said before its end: it was read later than the events that are told."""
    closing = time.monotonic() + LAST_WORDS
    while not any(_ends(event, job) for event in told):
        news = watch.wait(max(0, closing - time.monotonic()))
        if news is None:
            return
        told = news.events
        yield from _logs(told)


def _ends(event: Event, job: Job) -> bool:
    is_last = event.name in ("completed", "canceled", "failed") and not event.fields.get("retry_at")
    return is_last and event.fields.get("run") == job.run_id


def _logs(events: Sequence[Event]) -> Iterator[bytes]:
    for event in events:
        for said in _said(event):
            yield _event("log", said)


def _name(before: Job, job: Job) -> str:
    if job.is_ended:
        return "end"
    is_same = (before.run_id, before.status, before.attempt) == (
        job.run_id,
        job.status,
        job.attempt,
    )
    return "progress" if is_same else "state"


def _said(event: Event) -> list[dict[str, Any]]:
    """Return what an event says in words: lines that the job logged, or one of the engine's."""
    said = event.fields
    if event.name == "log":
        return [{"event": "log", **line} for line in payload.loads(said["lines"])]
    message = said.get("message") or said.get("error_message") or said.get("reason")
    if not message:
        return []
    at = datetime.fromtimestamp(event.at, tz=UTC)
    return [{"at": at, "event": event.name, "message": message}]


def _event(name: str, data: dict[str, Any], *, version: str | None = None) -> bytes:
    mark = f"id: {version}\n" if version else ""
    return f"{mark}event: {name}\ndata: ".encode() + payload.dumps(data) + b"\n\n"
