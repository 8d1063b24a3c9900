"""What every API blueprint gets: a role to be admitted, problems as errors, CORS.

A blueprint may be a module's global and serve several apps: it is protected once, and finds the
app's own gate at each request.
"""

from __future__ import annotations

from collections.abc import Callable
from weakref import WeakSet

from flask import Blueprint, Flask, Response, current_app, g, request
from flask.sansio.blueprints import Blueprint as AnyBlueprint
from werkzeug.exceptions import MethodNotAllowed, NotFound

from jobserver import current
from jobserver.auth import GATE, Credential, Gate, Principal, Role
from jobserver.http import cors, problems

_PREFIXES = "jobserver.prefixes"
_protected: WeakSet[AnyBlueprint] = WeakSet()
_seeds: WeakSet[AnyBlueprint] = WeakSet()


def protect(blueprint: Blueprint, *, role: Role | None = "viewer", seed: bool = False) -> None:
    """Admit only principals that may do what `role` may; None admits everybody.

    Errors of the blueprint become problems (`seed` adds `success: false`). Must come before the
    blueprint's first registration; doing it again changes nothing.
    """
    if blueprint in _protected:
        return
    _protected.add(blueprint)
    if seed:
        _seeds.add(blueprint)
    if role is not None:
        blueprint.before_request(_admitting(role))
    problems.install(blueprint, seed=seed)
    cors.install(blueprint)
    blueprint.after_request(_sniff_not)


def install(app: Flask) -> None:
    """Answer problems for unknown paths and methods below the prefixes of protected blueprints."""
    app.before_request(_answer_unrouted)


def principal() -> Principal:
    """Return who is asking; only inside a protected route."""
    credential: Credential = g.jobserver_credential
    return credential.principal


def _admitting(role: Role) -> Callable[[], None]:
    def admit() -> None:
        if request.method == "OPTIONS":  # a preflight carries no credential
            return
        gate: Gate = current_app.extensions[GATE]
        g.jobserver_credential = gate.admit(request, gate.identify(request), role=role)

    return admit


def _sniff_not(response: Response) -> Response:
    response.headers["X-Content-Type-Options"] = "nosniff"
    return response


def _answer_unrouted() -> Response | None:
    # Flask knows no blueprint for a 404 or 405 of the router, so no blueprint's handler is asked.
    error = request.routing_exception
    if not isinstance(error, NotFound | MethodNotAllowed):
        return None
    blueprint = _blueprint_at(request.path)
    if blueprint is None:
        return None
    response = problems.answer(error, seed=blueprint in _seeds)
    return cors.allow_origin(response, origins=current.server().config.cors_origins)


def _blueprint_at(path: str) -> AnyBlueprint | None:
    extensions = current_app.extensions
    prefixes: dict[str, AnyBlueprint] | None = extensions.get(_PREFIXES)
    if prefixes is None:  # routes are complete at the first request
        prefixes = extensions[_PREFIXES] = _prefixes(current_app)
    while path:
        if path in prefixes:
            return prefixes[path]
        path = path.rpartition("/")[0]
    return None


def _prefixes(app: Flask) -> dict[str, AnyBlueprint]:
    prefixes: dict[str, AnyBlueprint] = {}
    for rule in app.url_map.iter_rules():
        blueprint = app.blueprints.get(rule.endpoint.rpartition(".")[0])
        head = rule.rule.partition("<")[0].rstrip("/")
        if blueprint is not None and blueprint in _protected and head:
            prefixes[head] = blueprint
    return prefixes
