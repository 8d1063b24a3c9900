"""The one place that finds the current application and its job server."""

from __future__ import annotations

import importlib
import re
from functools import cache
from typing import TYPE_CHECKING, cast

from flask import Flask, current_app, has_app_context, has_request_context, request

from jobserver.config import Config
from jobserver.errors import ConfigInvalid
from jobserver.ids import new_id

if TYPE_CHECKING:
    from jobserver.server import Server

EXTENSION = "jobserver"
REQUEST_ID = "X-Request-Id"

_KNOWN_ID = "jobserver.request_id"  # in a request's environ
_SENT_ID = re.compile(r"[A-Za-z0-9._:/=+-]{1,64}")

_answers_requests = True


def server() -> Server:
    """Return the server of the current application, of JOBSERVER_APP outside of an app context."""
    app = application()
    try:
        return cast("Server", app.extensions[EXTENSION])
    except KeyError:
        raise ConfigInvalid(f"App {app.import_name!r} has no JobServer: JobServer(app)") from None


def application() -> Flask:
    """Return the current application, or the one that JOBSERVER_APP names (`wsgi:app`)."""
    if has_app_context():
        return cast(Flask, current_app._get_current_object())  # type: ignore[attr-defined]
    return _load(Config.from_env().app)


def request_id() -> str:
    """Return the id that a proxy gave the current request, or a new one; "" outside of requests.

    The answer of a route of ours carries it too.
    """
    if not has_request_context():
        return ""
    # Not in `g`: that belongs to the app context, which a test's client shares between requests.
    if (known := request.environ.get(_KNOWN_ID)) is None:
        sent = request.headers.get(REQUEST_ID, "")
        known = request.environ[_KNOWN_ID] = sent if _SENT_ID.fullmatch(sent) else new_id()
    return str(known)


def known_request_id() -> str | None:
    """Return the current request's id if anybody has asked for it."""
    return request.environ.get(_KNOWN_ID)


def answers_requests() -> bool:
    """Return whether this process may have to answer requests: workers don't."""
    return _answers_requests


def answer_no_requests() -> None:
    """Load applications without their routes from here on, and without what only those need."""
    global _answers_requests
    _answers_requests = False


@cache
def _load(name: str) -> Flask:
    module, _, attribute = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute or "app")
    except (ImportError, AttributeError) as error:
        raise ConfigInvalid(
            f"JOBSERVER_APP={name!r} cannot be loaded: {error}; use module:attribute"
        ) from error
    app = found if isinstance(found, Flask) else found()
    if not isinstance(app, Flask):
        raise ConfigInvalid(f"JOBSERVER_APP={name!r} is {type(app).__name__}, not a Flask app")
    return app
