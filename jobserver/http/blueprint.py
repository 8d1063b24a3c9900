"""A blueprint whose routes are checked against marshmallow schemas, and described by them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import flask
import flask_smorest
from flask import Request
from marshmallow import Schema, ValidationError
from webargs import missing
from webargs.flaskparser import FlaskParser
from werkzeug.exceptions import UnsupportedMediaType

from jobserver import payload
from jobserver.errors import Malformed, PayloadInvalid


class Parser(FlaskParser):
    """Reads what a request holds, and raises what problems.py answers; webargs would abort."""

    def load_json(self, req: Request, schema: Schema) -> Any:
        """Return the body's JSON; of an empty body nothing, whatever its media type is."""
        body = req.get_data()
        if not body:
            return missing
        if not req.is_json:
            raise UnsupportedMediaType("The body must be JSON: Content-Type: application/json.")
        try:
            return payload.loads(body)
        except ValueError as error:
            raise Malformed(f"The body is no JSON: {error}.") from None

    def handle_error(
        self,
        error: ValidationError,
        req: Request,
        schema: Schema,
        *,
        error_status_code: int | None,
        error_headers: Any,
    ) -> NoReturn:
        """Raise PayloadInvalid for wrong fields, whichever part of the request they are in."""
        parts: Any = error.messages
        wrong = [one for messages in parts.values() for one in payload.field_errors(messages)]
        raise PayloadInvalid(errors=wrong) from None


if TYPE_CHECKING:
    # What is used of flask-smorest 0.47, which has no types.
    Shape = type[Schema] | Schema | Mapping[str, Any] | None
    View = TypeVar("View", bound=Callable[..., Any])

    class _Typed(flask.Blueprint):
        description: str

        def __init__(self, name: str, import_name: str, **options: Any) -> None: ...
        def arguments(
            self, schema: Shape, *, location: str = "json", **options: Any
        ) -> Callable[[View], Callable[..., Any]]: ...
        def response(
            self, status_code: int, schema: Shape = None, **options: Any
        ) -> Callable[[View], Callable[..., Any]]: ...
        def alt_response(
            self, status_code: int, response: str | None = None, **options: Any
        ) -> Callable[[View], Callable[..., Any]]: ...
        def doc(self, **operation: Any) -> Callable[[View], Callable[..., Any]]: ...
        def register_views_in_doc(
            self, api: Any, app: flask.Flask, spec: Any, *, name: str, parameters: None
        ) -> None: ...

else:
    _Typed = flask_smorest.Blueprint


class Blueprint(_Typed):
    """A Flask blueprint with `arguments`, `response`, `alt_response` and `doc` (flask-smorest)."""

    ARGUMENTS_PARSER = Parser()
