"""The one place that finds the current application and its job server."""

from __future__ import annotations

import importlib
from functools import cache
from typing import TYPE_CHECKING, cast

from flask import Flask, current_app, has_app_context

from jobserver.config import Config
from jobserver.errors import ConfigInvalid

if TYPE_CHECKING:
    from jobserver.server import Server

EXTENSION = "jobserver"

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
