"""What every page gets: a signed-in visitor, an error page, headers that keep strangers out."""

from __future__ import annotations

import logging
from collections.abc import Callable
from weakref import WeakSet

from flask import Blueprint, Response, current_app, g, redirect, render_template, request, url_for
from werkzeug.exceptions import HTTPException, default_exceptions
from werkzeug.wrappers import Response as BaseResponse

from jobserver.auth import GATE, Credential, Gate, Role
from jobserver.errors import JobServerError, RedisUnavailable, Unavailable

# Everything comes from this site; nothing inline runs.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "font-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'"
)

_protected: WeakSet[Blueprint] = WeakSet()

logger = logging.getLogger(__name__)


def protect(blueprint: Blueprint, *, role: Role | None = "viewer") -> None:
    """Show the blueprint's pages to visitors who may do what `role` may; others sign in first.

    None shows them to everybody. Must come before the blueprint's first registration; doing it
    again changes nothing.
    """
    if blueprint in _protected:
        return
    _protected.add(blueprint)
    if role is not None:
        blueprint.before_request(_admitting(role))
    blueprint.after_request(_secure)
    # Flask asks by status code before it asks by class, the host app's handlers included.
    for code in default_exceptions:
        blueprint.register_error_handler(code, _error_page)
    blueprint.register_error_handler(Exception, _error_page)


def csrf_token() -> str:
    """Return the token that this visitor's writes must carry; empty where none is needed."""
    credential: Credential | None = g.get("jobserver_credential")
    return (credential.csrf if credential else None) or ""


def gate() -> Gate:
    """Return the current app's gate."""
    found: Gate = current_app.extensions[GATE]
    return found


def _admitting(role: Role) -> Callable[[], BaseResponse | None]:
    def admit() -> BaseResponse | None:
        credential = gate().identify(request)
        if credential is None and request.method == "GET":
            target = request.full_path if request.query_string else request.path
            sign_in = url_for("jobserver_pages.sign_in", next=request.script_root + target)
            return redirect(sign_in, code=303)
        g.jobserver_credential = gate().admit(request, credential, role=role)
        return None

    return admit


def _error_page(error: Exception) -> Response:
    status, title, detail = _describe(error)
    if isinstance(error, Unavailable):
        logger.warning("%s %r: %s", request.method, request.path, error)
    elif status >= 500:
        logger.error("%s %r failed", request.method, request.path, exc_info=error)
    page = render_template(
        "jobserver/error.html", status=status, title=title, detail=detail, csrf_token=csrf_token()
    )
    response = Response(page, status)
    if status == 401:
        response.headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, Unavailable):
        response.headers["Retry-After"] = str(error.retry_after)
    return response


def _describe(error: Exception) -> tuple[int, str, str]:
    if isinstance(error, HTTPException) and error.code and error.code != 500:
        return error.code, error.name, error.description or ""
    if isinstance(error, RedisUnavailable):
        return error.status, "Redis cannot be reached", "The page works again when Redis is back."
    if isinstance(error, Unavailable):
        return error.status, error.title(), "The page works again when it is back."
    if isinstance(error, JobServerError) and error.status != 500:
        return error.status, error.title(), str(error)
    return 500, "Something went wrong", "The error is in the log."


def _secure(response: Response) -> Response:
    headers = response.headers
    headers.setdefault("Content-Security-Policy", CONTENT_SECURITY_POLICY)
    headers.setdefault("X-Content-Type-Options", "nosniff")
    headers.setdefault("Referrer-Policy", "same-origin")
    headers.setdefault("Cache-Control", "private, no-store")
    return response
