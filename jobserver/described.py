"""What a plain Flask view takes and answers, noted on it for the API's document."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from http import HTTPStatus
from typing import Any, TypeVar

from marshmallow import Schema

View = TypeVar("View", bound=Callable[..., Any])
Shape = type[Schema] | Schema | Mapping[str, Any]


def describe(
    *,
    body: Shape | None = None,
    query: Shape | None = None,
    answers: Mapping[int, Shape | None] | None = None,
    errors: Iterable[int] = (),
) -> Callable[[View], View]:
    """Note what a view takes (`body`, `query`) and answers, by status; changes nothing else.

    Each is a marshmallow schema or a JSON Schema, None for an answer without a body. `errors` are
    the statuses of problems beyond those that any route may answer. The docstring says what it is.
    """
    operation: dict[str, Any] = {
        "responses": {
            str(status): _response(status, shape) for status, shape in (answers or {}).items()
        }
    }
    if body is not None:
        operation["requestBody"] = {
            "required": _is_required(body),
            "content": {"application/json": {"schema": body}},
        }
    if query is not None:
        operation["parameters"] = [{"in": "query", "schema": query}]
    for status in errors:
        operation["responses"][str(status)] = HTTPStatus(status).name

    def note(view: View) -> View:
        view._apidoc = {"manual_doc": operation}  # type: ignore[attr-defined]  # as flask-smorest
        return view

    return note


def _is_required(shape: Shape) -> bool:
    if isinstance(shape, Mapping):
        return True
    schema = shape() if isinstance(shape, type) else shape
    return any(field.required for field in schema.fields.values())


def _response(status: int, shape: Shape | None) -> dict[str, Any]:
    response: dict[str, Any] = {"description": HTTPStatus(status).phrase}
    if shape is not None:
        response["content"] = {"application/json": {"schema": shape}}
    return response
