"""`/api/v1/schedules`: which jobs are enqueued again and again, and what is done about that."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from flask import Response
from marshmallow import Schema, fields, validate

from jobserver import current, payload
from jobserver.broker import Job
from jobserver.broker.entry import LEAST_SECONDS, MOST_LIMIT, Entry, Misfire, Origin, Overlap
from jobserver.broker.standing import Schedule, State, Tick, Word
from jobserver.errors import FieldError, PayloadInvalid
from jobserver.http import guard, jobs_v1, paging
from jobserver.http.blueprint import Blueprint
from jobserver.http.enqueue import AcceptedSchema
from jobserver.http.idempotency import call_id, idempotent
from jobserver.http.schemas import Flag, JobSummarySchema, Number, WholeNumber, summary_body
from jobserver.policy import CENTURY, DAY, PRIORITIES
from jobserver.schedules import PREVIEWED

MOST_TICKS = 2**53
MOST_CRON = 200  # characters
CRONS = ["30 2 * * mon-fri", "@hourly"]
ZONES = ["Europe/Berlin"]


class ScheduleRequestSchema(Schema):
    """A schedule to be: `cron` or `seconds` says when, `type` and `payload` what is enqueued."""

    type = fields.String(required=True, metadata={"description": "the name of a job type"})
    payload = fields.Dict(keys=fields.String(), load_default=dict)
    cron = fields.String(
        allow_none=True,
        validate=validate.Length(1, MOST_CRON),
        metadata={
            "description": "5 fields, or 6 with seconds first; names; @hourly and its like",
            "examples": CRONS,
        },
    )
    seconds = Number(
        allow_none=True,
        validate=validate.Range(LEAST_SECONDS, CENTURY),
        metadata={"description": "from one time to the next; not with `cron`"},
    )
    timezone = fields.String(
        validate=validate.Length(1, 100),
        metadata={"description": "of `cron`, by its IANA name", "examples": ZONES},
    )
    jitter = Number(
        validate=validate.Range(0, DAY),
        metadata={"description": "seconds by which each time is put off at most"},
    )
    start = fields.AwareDateTime(allow_none=True)
    end = fields.AwareDateTime(allow_none=True)
    count = WholeNumber(
        allow_none=True,
        validate=validate.Range(1, MOST_TICKS),
        metadata={"description": "jobs that it makes before it ends"},
    )
    misfire = fields.String(
        validate=validate.OneOf(get_args(Misfire)),
        metadata={"description": "which of the times that found no scheduler are made up for"},
    )
    limit = WholeNumber(
        validate=validate.Range(1, MOST_LIMIT),
        metadata={"description": "missed times that `all` makes up for at most, the last ones"},
    )
    grace = Number(
        validate=validate.Range(0, CENTURY),
        metadata={"description": "seconds that `skip` lets a time be late"},
    )
    overlap = fields.String(
        validate=validate.OneOf(get_args(Overlap)),
        metadata={"description": "what becomes of a time while the job before is active"},
    )
    priority = fields.String(validate=validate.OneOf(PRIORITIES))
    paused = Flag(metadata={"description": "of a new one; one that is there stays paused or not"})


class ScheduleSchema(Schema):
    """A schedule as it stands."""

    id = fields.String(required=True)
    type = fields.String(required=True)
    payload = fields.Dict(required=True)
    cron = fields.String(required=True, allow_none=True)
    seconds = fields.Float(required=True, allow_none=True)
    timezone = fields.String(required=True)
    jitter = fields.Float(required=True)
    start = fields.AwareDateTime(required=True, allow_none=True)
    end = fields.AwareDateTime(required=True, allow_none=True)
    count = fields.Integer(required=True, allow_none=True)
    misfire = fields.String(required=True, validate=validate.OneOf(get_args(Misfire)))
    limit = fields.Integer(required=True)
    grace = fields.Float(required=True)
    overlap = fields.String(required=True, validate=validate.OneOf(get_args(Overlap)))
    priority = fields.String(required=True, validate=validate.OneOf(PRIORITIES))
    state = fields.String(
        required=True,
        validate=validate.OneOf(get_args(State)),
        metadata={"description": "parked: it can't be served now, `reason` says why"},
    )
    origin = fields.String(
        required=True,
        validate=validate.OneOf(get_args(Origin)),
        metadata={"description": "`registry`: declared beside its job type, and not to be deleted"},
    )
    reason = fields.String(required=True)
    nextAt = fields.AwareDateTime(
        required=True, allow_none=True, metadata={"description": "in UTC; null: it has ended"}
    )
    made = fields.Integer(required=True, metadata={"description": "times that made a job"})
    skipped = fields.Integer(required=True, metadata={"description": "by the overlap policy"})
    missed = fields.Integer(required=True, metadata={"description": "by the misfire policy"})
    lastJob = fields.String(required=True, allow_none=True)


class SchedulesFilterSchema(paging.PageSchema):
    """Which schedules are listed."""

    type = fields.String(metadata={"description": "a job type's name"})
    origin = fields.String(validate=validate.OneOf(get_args(Origin)))
    state = fields.String(validate=validate.OneOf(get_args(State)))


class ScheduleRunSchema(Schema):
    """What became of a time, or of `number` missed ones from then on."""

    at = fields.AwareDateTime(required=True)
    outcome = fields.String(required=True, validate=validate.OneOf(get_args(Word)))
    number = fields.Integer(required=True)
    notedAt = fields.AwareDateTime(required=True)
    jobId = fields.String(
        required=True,
        allow_none=True,
        metadata={"description": "the job that was made, or for whose sake none was"},
    )
    job = fields.Nested(
        JobSummarySchema,
        required=True,
        allow_none=True,
        metadata={"description": "null if neither Redis nor the ledger has it"},
    )


class ScheduleRunsSchema(Schema):
    """The last times of a schedule, the latest first."""

    items = fields.List(fields.Nested(ScheduleRunSchema), required=True)


class PreviewQuerySchema(Schema):
    """A schedule to try."""

    cron = fields.String(
        required=True,
        validate=validate.Length(1, MOST_CRON),
        metadata={"description": "5 fields, or 6 with seconds first", "examples": CRONS},
    )
    tz = fields.String(
        load_default="UTC", metadata={"description": "a time zone's IANA name", "examples": ZONES}
    )
    n = fields.Integer(load_default=5, validate=validate.Range(1, PREVIEWED))


class PreviewSchema(Schema):
    """The next times of a schedule, in its time zone."""

    cron = fields.String(required=True)
    timezone = fields.String(required=True)
    times = fields.List(fields.AwareDateTime(), required=True)


def blueprint() -> Blueprint:
    """Return the routes below `/api/v1/schedules`."""
    routes = Blueprint(
        "jobserver_schedules_v1",
        __name__,
        url_prefix="/api/v1/schedules",
        description="Which jobs are enqueued again and again",
    )
    guard.protect(routes, role="viewer")

    @routes.get("")
    @routes.arguments(SchedulesFilterSchema, location="query")
    @routes.response(200, paging.listed(ScheduleSchema))
    def list_schedules(asked: Mapping[str, Any]) -> Response:
        """List the schedules by id."""
        place = paging.place(asked.get("cursor"), of="schedules")
        filters = {name: asked.get(name) for name in ("type", "origin", "state")}
        shown, are_more = current.server().schedules.page(
            after=place[0] if place else "", limit=asked["limit"], **filters
        )
        behind = [shown[-1].entry.id] if are_more else None
        body, headers = paging.page(
            [schedule_body(one) for one in shown], behind=behind, of="schedules", asked=asked
        )
        return Response(payload.dumps(body), headers=headers, content_type="application/json")

    @routes.get("/preview")
    @routes.arguments(PreviewQuerySchema, location="query")
    @routes.response(200, PreviewSchema)
    def preview_schedule(asked: Mapping[str, Any]) -> Response:
        """Show when a cron expression is due next in a time zone, changes of its clock included."""
        cron, zone = asked["cron"], asked["tz"]
        try:
            times = current.server().schedules.preview(cron, timezone=zone, count=asked["n"])
        except PayloadInvalid as error:
            raise PayloadInvalid(errors=[_of_query(one) for one in error.errors]) from None
        body = {"cron": cron, "timezone": zone, "times": times}
        return Response(payload.dumps(body), content_type="application/json")

    @routes.get("/<schedule_id>")
    @routes.response(200, ScheduleSchema)
    def show_schedule(schedule_id: str) -> Response:
        """Show one schedule."""
        return _answer(current.server().schedules.get(schedule_id))

    @routes.put("/<schedule_id>")
    @routes.arguments(ScheduleRequestSchema)
    @routes.response(200, ScheduleSchema, description="Changed")
    @routes.alt_response(201, schema=ScheduleSchema, description="Made", success=True)
    @routes.alt_response(409, "CONFLICT")
    @routes.alt_response(501, "NOT_IMPLEMENTED")
    @guard.needs("operator")
    def put_schedule(values: Mapping[str, Any], schedule_id: str) -> Response:
        """Make a schedule, or change it to be so; what is left out has its default.

        It goes on where it stands unless its times change. One that is declared beside its job type
        stays as declared (409).
        """
        with guard.operator_action("schedule.put") as action:
            schedule, is_new = current.server().schedules.put(Entry(id=schedule_id, **values))
            action.detail = f"{'made' if is_new else 'changed'}: {schedule.entry.summary}"
        return _answer(schedule, status=201 if is_new else 200)

    @routes.delete("/<schedule_id>")
    @routes.response(204)
    @routes.alt_response(409, "CONFLICT")
    @guard.needs("operator")
    @guard.operator_action("schedule.delete")
    def delete_schedule(schedule_id: str) -> Response:
        """Remove a schedule; its jobs stay. One declared beside its job type is paused instead."""
        current.server().schedules.delete(schedule_id)
        return Response(status=204)

    @routes.post("/<schedule_id>/trigger")
    @idempotent
    @routes.response(202, AcceptedSchema)
    @routes.alt_response(409, "CONFLICT")
    @guard.needs("operator")
    def trigger_schedule(schedule_id: str) -> Response:
        """Make a job of it now, paused or not, by its overlap policy; its times stay."""
        with guard.operator_action("schedule.trigger") as action:
            job = current.server().schedules.trigger(schedule_id, call=call_id())
            action.detail = job.id
        return jobs_v1.accepted(job)

    @routes.post("/<schedule_id>/pause")
    @routes.response(200, ScheduleSchema)
    @guard.needs("operator")
    @guard.operator_action("schedule.pause")
    def pause_schedule(schedule_id: str) -> Response:
        """Let no job be made until it is resumed."""
        return _answer(current.server().schedules.pause(schedule_id))

    @routes.post("/<schedule_id>/resume")
    @routes.response(200, ScheduleSchema)
    @guard.needs("operator")
    @guard.operator_action("schedule.resume")
    def resume_schedule(schedule_id: str) -> Response:
        """Let a paused schedule go on; times that fell due meanwhile are treated as missed."""
        return _answer(current.server().schedules.resume(schedule_id))

    @routes.get("/<schedule_id>/runs")
    @routes.response(200, ScheduleRunsSchema)
    def list_runs(schedule_id: str) -> Response:
        """List what became of the last twenty times, the latest first."""
        server = current.server()
        ticks = server.schedules.runs(schedule_id)
        jobs = server.find_many([tick.job for tick in ticks if tick.job])
        items = [run_body(tick, jobs.get(tick.job or "")) for tick in ticks]
        return Response(payload.dumps({"items": items}), content_type="application/json")

    return routes


def schedule_body(schedule: Schedule) -> dict[str, Any]:
    """Return a schedule as ScheduleSchema describes it, ready for `payload.dumps`."""
    entry = schedule.entry
    return {
        "id": entry.id,
        "type": entry.type,
        "payload": current.server().redacted(entry.type, entry.payload),
        "cron": entry.cron,
        "seconds": entry.seconds,
        "timezone": entry.timezone,
        "jitter": entry.jitter,
        "start": entry.start,
        "end": entry.end,
        "count": entry.count,
        "misfire": entry.misfire,
        "limit": entry.limit,
        "grace": entry.grace,
        "overlap": entry.overlap,
        "priority": entry.priority,
        "origin": entry.origin,
        "state": schedule.state,
        "reason": schedule.reason,
        "nextAt": schedule.next_at,
        "made": schedule.made,
        "skipped": schedule.skipped,
        "missed": schedule.missed,
        "lastJob": schedule.last_job,
    }


def run_body(tick: Tick, job: Job | None) -> dict[str, Any]:
    """Return a tick and its job as ScheduleRunSchema describes it, ready for `payload.dumps`."""
    return {
        "at": tick.at,
        "outcome": tick.word,
        "number": tick.number,
        "notedAt": tick.noted_at,
        "jobId": tick.job,
        "job": job and summary_body(job),
    }


def _of_query(error: FieldError) -> FieldError:
    names = {"#/timezone": "#/tz", "#/count": "#/n"}
    return {**error, "pointer": names.get(error["pointer"], error["pointer"])}


def _answer(schedule: Schedule, *, status: int = 200) -> Response:
    body = payload.dumps(schedule_body(schedule))
    return Response(body, status, content_type="application/json")
