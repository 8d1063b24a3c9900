"""What every API blueprint gets: a role to be admitted, problems as errors, CORS, an audit trail.

A blueprint may be a module's global and serve several apps: it is protected once, and finds the
app's own gate at each request.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from flask import Blueprint, Flask, Response, current_app, g, request
from flask.sansio.blueprints import Blueprint as AnyBlueprint
from werkzeug.exceptions import MethodNotAllowed, NotFound, RequestEntityTooLarge

from jobserver import current
from jobserver.auth import GATE, Credential, Gate, Principal, Role
from jobserver.http import cors, problems, quota
from jobserver.ledger import Action, recorded

MAX_BODY = 16 * 1024 * 1024  # bytes of a request: a bulk of jobs; a payload has its own limit

_PREFIXES = "jobserver.prefixes"
_NEEDS = "jobserver_needs"

View = TypeVar("View", bound=Callable[..., Any])


@dataclass(frozen=True, kw_only=True)
class Need:
    """What a route asks for: a role, None for nobody's; with `owners`, or to own the job.

    With `ticket`, a ticket for the job serves instead of any other credential.
    """

    role: Role | None
    owners: bool = False
    ticket: bool = False


@dataclass(frozen=True, kw_only=True)
class Protection:
    """How a blueprint is protected; `opened_by` is the word of OPEN_ROUTES that opens it."""

    need: Need
    seed: bool
    opened_by: str | None = None


_protected: WeakKeyDictionary[AnyBlueprint, Protection] = WeakKeyDictionary()


def protect(
    blueprint: Blueprint,
    *,
    role: Role | None = "viewer",
    seed: bool = False,
    opened_by: str | None = None,
) -> None:
    """Admit only principals that may do what `role` may; None admits everybody.

    `opened_by` is the word of OPEN_ROUTES that admits everybody where an installation says so.
    Errors of the blueprint become problems (`seed` adds `success: false`). Must come before the
    blueprint's first registration; doing it again changes nothing.
    """
    if blueprint in _protected:
        return
    _protected[blueprint] = protection = Protection(
        need=Need(role=role), seed=seed, opened_by=opened_by
    )
    blueprint.before_request(_admitting(protection))
    problems.install(blueprint, seed=seed)
    cors.install(blueprint)
    blueprint.after_request(_finish)


def install(app: Flask) -> None:
    """Answer problems for unknown paths and methods below the prefixes of protected blueprints."""
    app.before_request(_answer_unrouted)


def needs(role: Role, *, owners: bool = False, ticket: bool = False) -> Callable[[View], View]:
    """Ask another role for one route than its blueprint does; goes next to the function.

    With `owners` a `user` is admitted too, and the route sees to it that the job is their own.
    With `ticket` the query may hold a ticket for `job_id`.
    """

    def mark(view: View) -> View:
        setattr(view, _NEEDS, Need(role=role, owners=owners, ticket=ticket))
        return view

    return mark


def protection_of(blueprint: AnyBlueprint) -> Protection | None:
    """Return how a blueprint is protected, None for one that is not."""
    return _protected.get(blueprint)


def need_of(view: Callable[..., Any], *, protection: Protection) -> Need:
    """Return what a route asks for."""
    found: Need = getattr(view, _NEEDS, protection.need)
    return found


def principal() -> Principal:
    """Return who is asking; only inside a protected route."""
    return credential().principal


def credential() -> Credential:
    """Return who is asking and how that is proven; only inside a protected route."""
    found: Credential = g.jobserver_credential
    return found


@contextmanager
def operator_action(
    action: str, *, role: Role = "operator", target: str | None = None
) -> Iterator[Action]:
    """Admit only who may do what `role` may, then record who did this, and what came of it.

    Decorates a view of a protected blueprint (below the route), or surrounds the verb inside one;
    the action that it yields takes a `detail`. The target is the path's arguments, if not given.
    """
    admitted = gate().admit(request, credential(), role=role).principal
    given = target if target is not None else "/".join(map(str, (request.view_args or {}).values()))
    entry = Action(
        principal=admitted.name,
        role=admitted.role,
        action=action,
        target=given,
        request_id=current.request_id(),
        remote_address=request.remote_addr or "",
    )
    with recorded(current.server().db, entry):
        yield entry


def _admitting(protection: Protection) -> Callable[[], Response | None]:
    def admit() -> Response | None:
        if request.method == "OPTIONS":  # a preflight carries no credential
            return _methods()
        need = need_of(current_app.view_functions[str(request.endpoint)], protection=protection)
        if need.role is not None and not is_open(protection):
            credential = _shown(need)
            is_user = credential is not None and credential.principal.role == "user"
            role: Role = "user" if need.owners and is_user else need.role
            g.jobserver_credential = gate().admit(request, credential, role=role)
            quota.take(g.jobserver_credential.identity)
        _limit_body()
        return None

    return admit


def _methods() -> Response:
    # Flask's answer would name the methods of every rule that the path fits, not only its own's.
    response = Response()
    for rule in current_app.url_map.iter_rules():
        if request.url_rule is not None and rule.rule == request.url_rule.rule:
            response.allow.update(rule.methods or ())
    return response


def is_open(protection: Protection) -> bool:
    """Tell whether this installation opens a blueprint's routes to everybody."""
    opened_by = protection.opened_by
    return opened_by is not None and opened_by in current.server().config.open_routes


def _limit_body() -> None:
    limits = (MAX_BODY, request.max_content_length)
    most = min(limit for limit in limits if limit is not None)
    request.max_content_length = most  # for a body without a length, as it is read
    if (request.content_length or 0) > most:
        raise RequestEntityTooLarge(f"The body is too large; at most {most} bytes are accepted.")


def _shown(need: Need) -> Credential | None:
    ticket = request.args.get("ticket") if need.ticket else None
    if ticket is None:
        return gate().identify(request)
    job_id = (request.view_args or {})["job_id"]
    return gate().redeem(request, ticket=ticket, job_id=job_id)


def gate() -> Gate:
    """Return the current app's gate."""
    found: Gate = current_app.extensions[GATE]
    return found


def _finish(response: Response) -> Response:
    response.headers["X-Content-Type-Options"] = "nosniff"
    if (request_id := current.known_request_id()) is not None:
        response.headers[current.REQUEST_ID] = request_id
    quota.tell(response)
    return response


def _answer_unrouted() -> Response | None:
    # Flask knows no blueprint for a 404 or 405 of the router, so no blueprint's handler is asked.
    error = request.routing_exception
    if not isinstance(error, NotFound | MethodNotAllowed):
        return None
    blueprint = _blueprint_at(request.path)
    if blueprint is None:
        return None
    response = problems.answer(error, seed=_protected[blueprint].seed)
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
        if blueprint is None or blueprint not in _protected or not head:
            continue
        # Of two that share a prefix the seed's wins: its clients look for `success`.
        if head not in prefixes or _protected[blueprint].seed:
            prefixes[head] = blueprint
    return prefixes
