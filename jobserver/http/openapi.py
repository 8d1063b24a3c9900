"""`/openapi.json`: every protected route of the app, from the schemas that check its requests."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from decimal import Decimal
from http import HTTPStatus
from typing import Any

import flask_smorest
from apispec import BasePlugin
from apispec.ext.marshmallow import MarshmallowPlugin
from apispec.ext.marshmallow.schema_resolver import SchemaResolver
from flask import Flask, Response, current_app, request
from flask.sansio.blueprints import Blueprint as AnyBlueprint
from werkzeug.routing import Rule

from jobserver import current, payload
from jobserver.auth import CSRF_HEADER, SESSION_COOKIE
from jobserver.http import guard, problems
from jobserver.http.blueprint import Blueprint
from jobserver.http.idempotency import is_idempotent
from jobserver.http.schemas import ProblemSchema
from jobserver.http.types_v1 import name_of, payload_schema
from jobserver.registry import Registry

OPENAPI = "3.1.0"

_DOCUMENT = "jobserver.document"
_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
_ABOUT = """\
Errors are problem details (RFC 9457). Times are ISO 8601 with their offset from UTC; what a name
does not say is in seconds. A browser's session (cookie) must send the CSRF token of its page with
every write, as `X-CSRF-Token`; a bearer token needs none."""
_ANYWHERE = (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE)
_REFUSALS = (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN)
# Said, not declared as a parameter: what is generated from that would use keys twice.
_ONCE = """\
Takes an `Idempotency-Key` of 1 to 255 visible ASCII characters: repeated with the same key within
24 hours, the request is worked on once, and answered the same."""
_OF_TYPES = ("JobRequest", "ScheduleRequest")
_OF_A_BODY = (
    HTTPStatus.BAD_REQUEST,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    HTTPStatus.UNPROCESSABLE_ENTITY,
)


def blueprint() -> Blueprint:
    """Return the route of the document."""
    routes = Blueprint("jobserver_openapi", __name__, description="This document")
    guard.protect(routes, role="viewer", opened_by="docs")

    @routes.get("/openapi.json")
    @routes.response(200, {"type": "object", "required": ["openapi", "info", "paths"]})
    def show_openapi() -> Response:
        """Describe this API (OpenAPI 3.1)."""
        servers = {"servers": [{"url": request.script_root or "/"}]}
        body = payload.dumps(document(current_app) | servers)
        return Response(body, content_type="application/json")

    return routes


def document(app: Flask) -> dict[str, Any]:
    """Return the OpenAPI document of all protected API routes; made once per app.

    Must not be asked for before the app's first request: routes may still come.
    """
    found: dict[str, Any] | None = app.extensions.get(_DOCUMENT)
    if found is None:
        found = app.extensions[_DOCUMENT] = _made(app)
    return found


def documented(app: Flask) -> Iterator[tuple[str, AnyBlueprint, list[Rule]]]:
    """Yield the name of each protected blueprint, itself and its rules."""
    rules: dict[str, list[Rule]] = {}
    for rule in app.url_map.iter_rules():
        rules.setdefault(rule.endpoint.rpartition(".")[0], []).append(rule)
    for name, found in app.blueprints.items():
        if guard.protection_of(found) is not None:
            yield name, found, rules.get(name, [])


class _Document(flask_smorest.Api):  # type: ignore[misc]  # it is not typed
    """flask-smorest's Api, of which only the document is wanted."""

    DEFAULT_ERROR_RESPONSE_NAME = None

    def _register_doc_blueprint(self) -> None:
        """Add no route to an app that is being served."""

    def _register_error_handlers(self) -> None:
        """Leave the app's errors alone: problems.py answers those of our blueprints."""

    def _register_responses(self) -> None:
        for status in HTTPStatus:
            content = {problems.MEDIA_TYPE: {"schema": ProblemSchema}}
            response = {"description": status.phrase, "content": content}
            self.spec.components.response(status.name, response, lazy=True)


class _Resolver(SchemaResolver):
    """Finds the schemas of maps too: apispec knows those of lists and objects."""

    def resolve_schema_dict(self, schema: Any) -> Any:
        """Replace a marshmallow schema by what describes it."""
        if isinstance(schema, dict) and "additionalProperties" in schema:
            values = self.resolve_schema_dict(schema["additionalProperties"])
            schema = {**schema, "additionalProperties": values}
        return super().resolve_schema_dict(schema)  # type: ignore[no-untyped-call]


class _Marshmallow(MarshmallowPlugin):
    Resolver = _Resolver


class _Common(BasePlugin):
    """Adds what every operation has: its id, who may use it, the problems that any may answer."""

    def __init__(self, app: Flask) -> None:
        self._app = app

    def operation_helper(
        self, path: str | None = None, operations: dict[str, Any] | None = None, **given: Any
    ) -> None:
        """Complete the operations of a rule; called by apispec."""
        rule: Rule = given["rule"]
        name, _, endpoint = rule.endpoint.rpartition(".")
        protection = guard.protection_of(self._app.blueprints[name])
        view = self._app.view_functions[rule.endpoint]
        if protection is None:
            return
        need = guard.need_of(view, protection=protection)
        if guard.is_open(protection):
            need = guard.Need(role=None)
        for method, operation in (operations or {}).items():
            suffix = "" if len(operations or ()) == 1 else f"_{method}"
            operation["operationId"] = f"{name.removeprefix('jobserver_')}.{endpoint}{suffix}"
            operation["tags"] = [name.removeprefix("jobserver_")]
            _describe_need(operation, need)
            statuses = [*_ANYWHERE]
            statuses += _REFUSALS if need.role is not None else ()
            statuses += (HTTPStatus.NOT_FOUND,) if rule.arguments else ()
            statuses += _OF_A_BODY if "requestBody" in operation else ()
            if any(one["in"] == "query" for one in operation.get("parameters", ())):
                statuses.append(HTTPStatus.UNPROCESSABLE_ENTITY)
            if is_idempotent(view):
                operation["description"] = f"{operation.get('description', '')}\n\n{_ONCE}"
                statuses += (HTTPStatus.BAD_REQUEST, HTTPStatus.CONFLICT)
                statuses.append(HTTPStatus.UNPROCESSABLE_ENTITY)
            responses = operation.setdefault("responses", {})
            if not any(str(status)[0] in "23" for status in responses):
                responses["200"] = {"description": "OK"}
            for status in statuses:
                responses.setdefault(str(status.value), status.name)


def _describe_need(operation: dict[str, Any], need: guard.Need) -> None:
    if need.role is None:
        operation["security"] = []
        return
    who = f"Needs the role `{need.role}`" + (", or to own the job." if need.owners else ".")
    said = operation.get("description")
    operation["description"] = f"{said}\n\n{who}" if said else who


def _made(app: Flask) -> dict[str, Any]:
    api = _Document(
        app,
        config_prefix="JOBSERVER",
        spec_kwargs={
            "title": f"Job server of {app.name}",
            "version": "1",
            "openapi_version": OPENAPI,
            "info": {"description": _ABOUT},
            "security": [{"bearer": []}, {"session": []}],
            "marshmallow_plugin": _Marshmallow(schema_name_resolver=name_of),
            "extra_plugins": [_Common(app)],
        },
    )
    spec = api.spec
    spec.components.security_scheme("bearer", {"type": "http", "scheme": "bearer"})
    spec.components.security_scheme(
        "session",
        {
            "type": "apiKey",
            "in": "cookie",
            "name": SESSION_COOKIE,
            "description": f"From the sign-in page; a write needs the header {CSRF_HEADER} too.",
        },
    )
    for name, blueprint, rules in documented(app):
        described = (
            blueprint if isinstance(blueprint, Blueprint) else _as_described(app, blueprint, rules)
        )
        described.register_views_in_doc(api, app, spec, name=name, parameters=None)
        spec.tag({"name": name.removeprefix("jobserver_"), "description": described.description})
    made: dict[str, Any] = _plain(spec.to_dict())
    _name_types(made["components"]["schemas"], registry=current.server().registry)
    return made


def _plain(value: Any) -> Any:
    """Return the value with JSON's numbers for Decimals, which bounds of fields may be."""
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return float(value) if isinstance(value, Decimal) else value


def _name_types(schemas: dict[str, Any], *, registry: Registry) -> None:
    """Let what asks for jobs say which types there are, and what the payload of each is."""
    general = {name: schemas[name] for name in _OF_TYPES if name in schemas}
    if not general or not registry.types:
        return
    schemas["Options"]["not"] = {"required": ["delay", "at"]}
    variants: dict[str, list[dict[str, Any]]] = {name: [] for name in general}
    for name, kind in sorted(registry.types.items()):
        component = f"{name}.payload"
        place = f"#/components/schemas/{component}"
        payload_of = payload_schema(kind, part=f"{place}.{{}}", whole=place)
        schemas[component] = payload_of.whole
        schemas |= {f"{component}.{part}": schema for part, schema in payload_of.parts.items()}
        needs_payload = ["payload"] if payload_of.whole.get("required") else []
        about = (kind.function.__doc__ or "").strip().partition("\n")[0]
        for body, schema in general.items():
            own = {"type": {"const": name}, "payload": {"$ref": place}}
            variants[body].append(
                schema
                | {
                    "title": name,
                    "description": about,
                    "properties": schema["properties"] | own,
                    "required": [*schema["required"], *needs_payload],
                }
            )
    for body, schema in general.items():
        about = schema.get("description", "A job to be made.")
        schemas[body] = {"description": about, "oneOf": variants[body]}


def _as_described(app: Flask, blueprint: AnyBlueprint, rules: list[Rule]) -> Blueprint:
    """Return what flask-smorest can describe, for a plain blueprint; it is never registered."""
    about = (sys.modules[blueprint.import_name].__doc__ or "").strip()
    described = Blueprint(blueprint.name, blueprint.import_name, description=about)
    for rule in rules:
        methods = [method for method in _METHODS if method in (rule.methods or ())]
        endpoint = rule.endpoint.rpartition(".")[2]
        described.add_url_rule(
            rule.rule, endpoint, app.view_functions[rule.endpoint], methods=methods
        )
    return described
