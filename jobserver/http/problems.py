"""Errors as problem details (RFC 9457): what a blueprint of ours answers when something goes wrong.

Handlers are set per blueprint, so a host app's own errors stay its own.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from flask import Blueprint, Response, request
from marshmallow import ValidationError
from werkzeug.exceptions import HTTPException, default_exceptions

from jobserver import payload
from jobserver.errors import (
    FieldError,
    JobServerError,
    NoDatabase,
    NotBuilt,
    PayloadInvalid,
    QuotaExceeded,
    Unauthorized,
    Unavailable,
)
from jobserver.http import quota

MEDIA_TYPE = "application/problem+json"

_WORD = re.compile(r"(?<!^)(?=[A-Z])")
_LOGGED = "Something went wrong here; the error is in the log."

logger = logging.getLogger(__name__)


def install(blueprint: Blueprint, *, seed: bool = False) -> None:
    """Make a blueprint answer every error as a problem; `seed` adds the seeds' `success: false`."""
    handler = _handler(seed=seed)
    # Flask asks by status code before it asks by class, the host app's handlers included.
    for code in default_exceptions:
        blueprint.register_error_handler(code, handler)
    blueprint.register_error_handler(Exception, handler)


def answer(error: Exception, *, seed: bool = False) -> Response:
    """Return the problem response for any error; what is not the asker's fault is logged."""
    problem, headers = _describe(error)
    if isinstance(error, Unavailable):
        logger.warning("%s %r: %s", request.method, request.path, error)
    elif problem["status"] >= 500 and not isinstance(error, NotBuilt | NoDatabase):
        logger.error("%s %r failed", request.method, request.path, exc_info=error)
    if seed:
        problem["success"] = False
    response = Response(payload.dumps(problem), problem["status"], content_type=MEDIA_TYPE)
    response.headers.extend(headers)
    response.headers["Cache-Control"] = "no-store"
    return response


def body(error: Exception) -> dict[str, Any]:
    """Return the problem that an error is, where a response has several."""
    return _describe(error)[0]


def _handler(*, seed: bool) -> Callable[[Exception], Response]:
    def handle(error: Exception) -> Response:
        return answer(error, seed=seed)

    return handle


def _describe(error: Exception) -> tuple[dict[str, Any], dict[str, str]]:
    if isinstance(error, ValidationError):
        errors = payload.field_errors(error.normalized_messages())  # type: ignore[no-untyped-call]
        return _members("#validation-error", 422, "The input is not valid.", errors=errors), {}
    if isinstance(error, HTTPException) and error.code:
        return _http(error, code=error.code)
    if not isinstance(error, JobServerError):
        return _members("about:blank", 500, _LOGGED), {}
    detail = _public(error)
    kind = f"#{_WORD.sub('-', type(error).__name__).lower()}"
    members = _members(kind, error.status, detail, title=error.title())
    if isinstance(error, PayloadInvalid):
        members["errors"] = error.errors
    if isinstance(error, QuotaExceeded):
        members["violated-policies"] = [quota.POLICY]
    return members, _headers(error)


def _http(error: HTTPException, *, code: int) -> tuple[dict[str, Any], dict[str, str]]:
    headers = {name: value for name, value in error.get_headers() if name != "Content-Type"}
    detail = _LOGGED if code == 500 else error.description or ""
    return _members("about:blank", code, detail, title=error.name), headers


def _public(error: JobServerError) -> str:
    if isinstance(error, Unavailable):
        return error.title()  # its message names the server's address
    return _LOGGED if error.status == 500 else str(error)


def _headers(error: JobServerError) -> dict[str, str]:
    if isinstance(error, Unauthorized):
        return {"WWW-Authenticate": "Bearer"}
    return {} if error.retry_after is None else {"Retry-After": str(error.retry_after)}


def _members(
    kind: str,
    status: int,
    detail: str,
    *,
    title: str | None = None,
    errors: list[FieldError] | None = None,
) -> dict[str, Any]:
    members: dict[str, Any] = {
        "type": kind,
        "title": title or HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "instance": request.script_root + request.path,
    }
    if errors is not None:
        members["errors"] = errors
    return members
