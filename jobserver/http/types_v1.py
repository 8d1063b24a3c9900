"""`/api/v1/types`: the job types, with the JSON Schema of each payload."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from apispec import APISpec
from apispec.ext.marshmallow import MarshmallowPlugin
from apispec.ext.marshmallow.common import make_schema_key, resolve_schema_instance
from flask import Response
from marshmallow import Schema, fields

from jobserver import current, payload
from jobserver.http import guard
from jobserver.http.blueprint import Blueprint
from jobserver.job_type import JobType

DIALECT = "https://json-schema.org/draft/2020-12/schema"

_COMPONENTS = "#/components/schemas/"
_WHOLE = "-whole-"
_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


@dataclass(frozen=True, kw_only=True)
class PayloadSchema:
    """The JSON Schema of a payload, and those that it refers to."""

    whole: dict[str, Any]
    parts: dict[str, dict[str, Any]]


class JobTypeSchema(Schema):
    """A job type: what `POST /api/v1/jobs` makes a job of."""

    name = fields.String(required=True)
    description = fields.String(required=True)
    queue = fields.String(required=True)
    key = fields.String(
        required=True,
        allow_none=True,
        metadata={"description": "template of the deduplication key, over the payload"},
    )
    attempts = fields.Integer(required=True)
    timeout = fields.Integer(required=True, metadata={"description": "seconds"})
    payloadSchema = fields.Dict(required=True, metadata={"description": "JSON Schema (2020-12)"})
    example = fields.Dict(required=True, allow_none=True)


class JobTypesSchema(Schema):
    """All job types."""

    items = fields.List(fields.Nested(JobTypeSchema), required=True)


def blueprint() -> Blueprint:
    """Return the routes below `/api/v1/types`."""
    routes = Blueprint(
        "jobserver_types_v1",
        __name__,
        url_prefix="/api/v1/types",
        description="What jobs there can be",
    )
    guard.protect(routes, role="user")

    @routes.get("")
    @routes.response(200, JobTypesSchema)
    def list_types() -> Response:
        """List the job types by name, with the JSON Schema of each payload and an example."""
        known = current.server().registry.types
        items = [_body(known[name]) for name in sorted(known)]
        return Response(payload.dumps({"items": items}), content_type="application/json")

    return routes


def payload_schema(kind: JobType, *, part: str = "#/$defs/{}", whole: str = "#") -> PayloadSchema:
    """Return the JSON Schema of a type's payload and its parts by name.

    `part` is where a part will be found, `whole` where the schema itself will.
    """
    if kind.schema is None:
        return PayloadSchema(whole=_of_signature(kind.signature), parts={})
    spec = APISpec("", "", "3.1.0", plugins=[MarshmallowPlugin(schema_name_resolver=name_of)])
    spec.components.schema(_WHOLE, schema=kind.schema)
    components = spec.to_dict()["components"]["schemas"]
    places = {name: whole if name == _WHOLE else part.format(name) for name in components}
    found = {name: _moved(schema, places) for name, schema in components.items()}
    return PayloadSchema(whole=found.pop(_WHOLE), parts=found)


def name_of(schema: type[Schema] | Schema | str) -> str:
    """Return the name of a schema's component: its class's, marked if an instance changes it."""
    instance = resolve_schema_instance(schema)
    name = type(instance).__name__.removesuffix("Schema") or "Schema"
    changed = repr(sorted(map(repr, make_schema_key(instance)[1:])))
    plain = repr(sorted(map(repr, make_schema_key(type(instance)())[1:])))
    if changed == plain:
        return name
    return f"{name}.{hashlib.sha256(changed.encode()).hexdigest()[:6]}"


def _moved(schema: Any, places: Mapping[str, str]) -> Any:
    if isinstance(schema, list):
        return [_moved(one, places) for one in schema]
    if not isinstance(schema, dict):
        return schema
    moved = {name: _moved(value, places) for name, value in schema.items()}
    if isinstance(reference := schema.get("$ref"), str):
        moved["$ref"] = places[reference.removeprefix(_COMPONENTS)]
    return moved


def _of_signature(signature: inspect.Signature) -> dict[str, Any]:
    """Describe the payload of a type without a schema by its function's parameters."""
    named = [p for p in signature.parameters.values() if p.kind in _NAMED]
    return {
        "type": "object",
        "properties": {p.name: _of_annotation(p.annotation) for p in named},
        "required": [p.name for p in named if p.default is p.empty],
        "additionalProperties": any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values()),
    }


def _of_annotation(annotation: Any) -> dict[str, Any]:
    # It says what is meant, but nothing checks a payload against it.
    if annotation is inspect.Parameter.empty:
        return {}
    return {"description": annotation if isinstance(annotation, str) else annotation.__name__}


def _body(kind: JobType) -> dict[str, Any]:
    settings = current.server().settings(kind)
    schema = payload_schema(kind)
    defs = {"$defs": schema.parts} if schema.parts else {}
    return {
        "name": kind.name,
        "description": inspect.cleandoc(kind.function.__doc__ or ""),
        "queue": kind.queue.name,
        "key": kind.key,
        "attempts": settings["attempts"],
        "timeout": settings["timeout"],
        "payloadSchema": {"$schema": DIALECT, **schema.whole, **defs},
        "example": kind.example,
    }
