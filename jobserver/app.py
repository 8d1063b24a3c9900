"""JobServer: the Flask extension, which puts engine, API, pages and commands on an app."""

from __future__ import annotations

import copy
import importlib
import re
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from flask import Blueprint, Flask
from werkzeug.middleware.proxy_fix import ProxyFix

from jobserver import current
from jobserver.auth import GATE, Gate, Principal, PrincipalHook, Role
from jobserver.config import Config
from jobserver.current import EXTENSION
from jobserver.described import describe
from jobserver.errors import DeclarationInvalid
from jobserver.ledger.tokens import Tokens
from jobserver.server import Server

if TYPE_CHECKING:
    from contextlib import _GeneratorContextManager
    from types import ModuleType

    from jobserver.ledger import Action

P = ParamSpec("P")
View = TypeVar("View", bound=Callable[..., Any])


class JobServer(Server):
    """The job server of a Flask app: `JobServer(app, jobs=["shop.jobs"], db=db)`, or `init_app`.

    `jobs` names the modules that declare job types; of a package, every submodule called `jobs`.
    `db` is the app's Flask-SQLAlchemy. All routes lie below `url_prefix`. `principal` is called in
    every request and returns who is asking by the app's own reckoning, or None. `routes` names the
    module whose `register(app)` adds the app's own routes: workers don't import it.
    """

    describe = staticmethod(describe)

    def __init__(
        self,
        app: Flask | None = None,
        *,
        jobs: Iterable[str] = (),
        db: object = None,
        url_prefix: str = "",
        principal: PrincipalHook | None = None,
        routes: str | None = None,
        config: Config | None = None,
    ) -> None:
        super().__init__(jobs=jobs, db=db)
        if not re.fullmatch(r"(/[^/<>\s]+)*", url_prefix):
            raise DeclarationInvalid(
                f"url_prefix={url_prefix!r} is not accepted: use '' or a path like '/engine'"
            )
        self._url_prefix = url_prefix
        self._principal = principal
        self._routes = routes
        self._given_config = config
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Put the job server on an app; touches neither Redis nor SQL. Raises ConfigInvalid.

        Each app gets its own: with several, this object itself serves the first.
        """
        if EXTENSION in app.extensions:
            raise DeclarationInvalid(f"The app {app.import_name!r} has a JobServer already")
        server = copy.copy(self) if hasattr(self, "app") else self
        config = self._given_config or Config.from_env()
        server.app = app
        server.configure(config)
        app.extensions[EXTENSION] = server
        if not current.answers_requests():
            app.wsgi_app = _refuse  # type: ignore[assignment, method-assign]  # nothing is protected
            return
        app.extensions[GATE] = Gate(
            config,
            tokens=Tokens(server.db),
            hook=self._principal,
            app_secret=lambda: app.secret_key,
        )
        if hops := config.proxy_hops:
            app.wsgi_app = ProxyFix(  # type: ignore[method-assign]  # as Flask's documentation does
                app.wsgi_app, x_for=hops, x_proto=hops, x_host=hops, x_port=hops, x_prefix=hops
            )
        _part("http").register(app, url_prefix=self._url_prefix)
        _part("admin").register(app, url_prefix=self._url_prefix)
        docs = _part("http").docs.blueprint()
        _part("admin").protect(docs, role=None if "docs" in config.open_routes else "viewer")
        app.register_blueprint(docs, url_prefix=self._url_prefix or None)
        app.cli.add_command(_part("cli").commands)
        if self._routes:
            importlib.import_module(self._routes).register(app)

    @staticmethod
    def needs(role: Role, *, owners: bool = False) -> Callable[[View], View]:
        """Ask another role for one route than its blueprint does; goes next to the function.

        With `owners` a `user` is admitted too, and the route sees to it that the job is their own.
        """
        marked: Callable[[View], View] = _part("http").needs(role, owners=owners)
        return marked

    @staticmethod
    def operator_action(
        action: str, *, role: Role = "operator", target: str | None = None
    ) -> _GeneratorContextManager[Action]:
        """Admit only who may do what `role` may, then record who did this, and what came of it.

        Decorates a view of a protected blueprint (below the route), or surrounds the verb inside
        one; the action that it yields takes a `detail`. The target is the path's arguments, if not
        given.
        """
        acting: _GeneratorContextManager[Action] = _part("http").operator_action(
            action, role=role, target=target
        )
        return acting

    @staticmethod
    def idempotent(view: Callable[P, Any]) -> Callable[P, Any]:
        """Decorate a view that creates, right below its route: an Idempotency-Key is honoured."""
        once: Callable[P, Any] = _part("http").idempotent(view)
        return once

    @staticmethod
    def protect(
        blueprint: Blueprint,
        *,
        role: Role | None = "viewer",
        seed: bool = False,
        page: bool = False,
    ) -> None:
        """Admit only principals that may do what `role` may to a blueprint of the app's own.

        None admits everybody to an API blueprint. Its errors become problems (RFC 9457), with the
        seeds' `success: false` when `seed`; with `page`, visitors are sent to sign in and errors
        are pages. Must come before the blueprint is first registered; doing it again changes
        nothing.
        """
        if page:
            _part("admin").protect(blueprint, role=role or "viewer")
        else:
            _part("http").protect(blueprint, role=role, seed=seed)

    @staticmethod
    def principal() -> Principal:
        """Return who is asking; only inside a route that `protect` guards."""
        asking: Principal = _part("http").principal()
        return asking

    @staticmethod
    def csrf_token() -> str:
        """Return what a signed-in page's writes must send as `X-CSRF-Token` or `csrf_token`."""
        return str(_part("admin").csrf_token())


def _part(name: str) -> ModuleType:
    # Not at the top: a worker answers no requests, and these take half of its memory.
    return importlib.import_module(f"jobserver.{name}")


def _refuse(*_: object) -> Any:
    raise RuntimeError("this process was loaded without routes: it answers no requests")
