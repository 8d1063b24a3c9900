"""`/api/v1/dead-letters`: failed runs by what they share, retried or discarded together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from flask import Response
from marshmallow import Schema, ValidationError, fields, validates_schema

from jobserver import current, payload, retries
from jobserver.http import guard, paging
from jobserver.http.blueprint import Blueprint
from jobserver.http.idempotency import idempotent
from jobserver.http.runs_v1 import (
    DiscardedSchema,
    RunSummarySchema,
    SoughtSchema,
    query_of,
    run_summary,
    sought,
)
from jobserver.http.schemas import Flag
from jobserver.ledger import dead_letters
from jobserver.ledger.dead_letters import Group


class GroupFilterSchema(SoughtSchema, paging.PageSchema):
    """Which dead letters are grouped."""


class ChosenSchema(SoughtSchema):
    """Which dead letters something is done to: those that fit all that is said, or `all`."""

    all = Flag(load_default=False, metadata={"description": "in place of any other"})

    @validates_schema
    def _says_which(self, values: Mapping[str, Any], **_: Any) -> None:
        said = set(values) - {"all"}
        if bool(said) == values["all"]:
            raise ValidationError("Say which, or all: true.")


class GroupSchema(Schema):
    """Dead letters of one cause: of one job type, error, message (values aside) and place."""

    fingerprint = fields.String(required=True)
    count = fields.Integer(required=True)
    firstSeen = fields.AwareDateTime(required=True)
    lastSeen = fields.AwareDateTime(required=True)
    example = fields.Nested(
        RunSummarySchema, required=True, metadata={"description": "the one enqueued last"}
    )


class RefusalSchema(Schema):
    """A run that could not be retried, and why."""

    run = fields.String(required=True)
    job = fields.String(required=True)
    detail = fields.String(required=True)


class TallySchema(Schema):
    """What became of many dead letters."""

    retried = fields.Integer(required=True, metadata={"description": "went on in Redis"})
    enqueued = fields.Integer(
        required=True, metadata={"description": "began anew: Redis had let them go"}
    )
    skipped = fields.Integer(required=True, metadata={"description": "run again already"})
    refused = fields.Integer(required=True)
    refusals = fields.List(
        fields.Nested(RefusalSchema), required=True, metadata={"description": "the first 100"}
    )
    more = fields.Boolean(
        required=True,
        metadata={"description": f"there are more than the {retries.MOST:,} that one call takes"},
    )


def blueprint() -> Blueprint:
    """Return the routes below `/api/v1/dead-letters`."""
    routes = Blueprint(
        "jobserver_dead_letters_v1",
        __name__,
        url_prefix="/api/v1/dead-letters",
        description="Failed runs that nobody has seen to",
    )
    guard.protect(routes, role="viewer")

    @routes.get("")
    @routes.arguments(GroupFilterSchema, location="query")
    @routes.response(200, paging.listed(GroupSchema))
    @routes.alt_response(404, "NOT_FOUND")
    @routes.alt_response(501, "NOT_IMPLEMENTED")
    def list_groups(asked: Mapping[str, Any]) -> Response:
        """List dead letters by fingerprint, those with the newest first.

        A dead letter is a failed run that nobody has discarded and whose job has not run since.
        """
        place = paging.place(asked.get("cursor"), of="dead letters")
        groups, last = dead_letters.groups(
            current.server().db,
            sought(asked),
            before=place[0] if place else None,
            limit=asked["limit"],
        )
        body, headers = paging.page(
            [_body(group) for group in groups],
            behind=[last] if last else None,
            of="dead letters",
            asked=query_of(asked),
        )
        return Response(payload.dumps(body), headers=headers, content_type="application/json")

    @routes.get("/<fingerprint>")
    @routes.arguments(paging.PageSchema, location="query")
    @routes.response(200, paging.listed(RunSummarySchema))
    @routes.alt_response(501, "NOT_IMPLEMENTED")
    def list_group(asked: Mapping[str, Any], fingerprint: str) -> Response:
        """List the dead letters of one group, the newest first; an unknown one has none."""
        of = f"dead letters {fingerprint}"
        place = paging.place(asked.get("cursor"), of=of)
        found, last = dead_letters.find(
            current.server().db,
            fingerprint,
            before=place[0] if place else None,
            limit=asked["limit"],
        )
        body, headers = paging.page(
            [run_summary(run) for run in found],
            behind=[last] if last else None,
            of=of,
            asked=query_of(asked),
        )
        return Response(payload.dumps(body), headers=headers, content_type="application/json")

    @routes.post("/retry")
    @idempotent
    @routes.arguments(ChosenSchema)
    @routes.response(202, TallySchema)
    @routes.alt_response(404, "NOT_FOUND")
    @routes.alt_response(501, "NOT_IMPLEMENTED")
    @guard.needs("operator")
    def retry_chosen(chosen: Mapping[str, Any]) -> Response:
        """Retry a group (`fingerprint`), what fits a filter, or all; may be repeated.

        Redis goes on with those it has; the others are enqueued anew with the payload that the
        ledger kept, unless that lacks marked fields or was too large. At most 10,000 at once.
        """
        with guard.operator_action("dead-letters.retry", target=target_of(chosen)) as action:
            tally = retries.retry_all(current.server(), sought(chosen))
            action.detail = (
                f"{tally.retried} retried, {tally.enqueued} enqueued, {tally.skipped} skipped, "
                f"{tally.refused} refused"
            )
        return Response(payload.dumps(asdict(tally)), 202, content_type="application/json")

    @routes.post("/discard")
    @idempotent
    @routes.arguments(ChosenSchema)
    @routes.response(200, DiscardedSchema)
    @routes.alt_response(404, "NOT_FOUND")
    @routes.alt_response(501, "NOT_IMPLEMENTED")
    @guard.needs("operator")
    def discard_chosen(chosen: Mapping[str, Any]) -> Response:
        """Let a group, what fits a filter, or all be dead letters no more; the runs stay on record.

        At most 10,000 at once; may be repeated.
        """
        with guard.operator_action("dead-letters.discard", target=target_of(chosen)) as action:
            count, more = retries.discard_all(current.server(), sought(chosen))
            action.detail = f"{count} discarded"
        body = {"discarded": count, "more": more}
        return Response(payload.dumps(body), content_type="application/json")

    return routes


def target_of(chosen: Mapping[str, Any]) -> str:
    """Return in words which dead letters were chosen: `queue=mail error=timed out`."""
    said = query_of({name: value for name, value in chosen.items() if name != "all"})
    return " ".join(f"{name}={value}" for name, value in said.items()) or "all"


def _body(group: Group) -> dict[str, Any]:
    return {
        "fingerprint": group.fingerprint,
        "count": group.count,
        "firstSeen": group.first_seen,
        "lastSeen": group.last_seen,
        "example": run_summary(group.example),
    }
