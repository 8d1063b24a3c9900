"""`/api/v1/audit`: what operators did, the newest first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flask import Response
from marshmallow import Schema, fields, validate

from jobserver import current, payload
from jobserver.http import guard, paging
from jobserver.http.blueprint import Blueprint
from jobserver.ledger import actions

_FILTERS = ("principal", "action", "target", "outcome")


class AuditFilterSchema(paging.PageSchema):
    """Which actions are listed."""

    principal = fields.String(metadata={"description": "a token's name, or shell:<user>"})
    action = fields.String(metadata={"description": "like queue.pause"})
    target = fields.String(metadata={"description": "as it was recorded"})
    outcome = fields.String(validate=validate.OneOf((actions.DONE, actions.FAILED)))


class ActionSchema(Schema):
    """One action of an operator."""

    id = fields.Integer(required=True)
    at = fields.AwareDateTime(required=True)
    principal = fields.String(required=True)
    role = fields.String(
        required=True, allow_none=True, metadata={"description": "null for a command in a shell"}
    )
    action = fields.String(required=True)
    target = fields.String(required=True)
    outcome = fields.String(required=True, validate=validate.OneOf((actions.DONE, actions.FAILED)))
    detail = fields.String(required=True)
    requestId = fields.String(required=True)
    remoteAddress = fields.String(required=True)


def blueprint() -> Blueprint:
    """Return the route at `/api/v1/audit`."""
    routes = Blueprint(
        "jobserver_audit", __name__, url_prefix="/api/v1/audit", description="What operators did"
    )
    guard.protect(routes, role="operator")

    @routes.get("")
    @routes.arguments(AuditFilterSchema, location="query")
    @routes.response(200, paging.listed(ActionSchema))
    @routes.alt_response(501, "NOT_IMPLEMENTED")
    def list_actions(asked: Mapping[str, Any]) -> Response:
        """List what operators did, the newest first; an app without database has it in its log."""
        place = paging.place(asked.get("cursor"), of="audit")
        found = actions.find(
            current.server().db,
            before=place[0] if place else None,
            limit=asked["limit"] + 1,
            **{name: asked.get(name) for name in _FILTERS},
        )
        shown = found[: asked["limit"]]
        behind = [shown[-1].position] if len(found) > len(shown) else None
        body, headers = paging.page(
            [_body(action) for action in shown], behind=behind, of="audit", asked=asked
        )
        return Response(payload.dumps(body), headers=headers, content_type="application/json")

    return routes


def _body(action: actions.Action) -> dict[str, Any]:
    return {
        "id": action.position,
        "at": action.at,
        "principal": action.principal,
        "role": action.role,
        "action": action.action,
        "target": action.target,
        "outcome": action.outcome,
        "detail": action.detail,
        "requestId": action.request_id,
        "remoteAddress": action.remote_address,
    }
