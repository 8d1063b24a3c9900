"""Sign-in and sign-out: a token is exchanged for a signed, HttpOnly session cookie."""

from __future__ import annotations

from flask import Blueprint, redirect, render_template, request, url_for
from werkzeug.wrappers import Response

from jobserver.admin import pages
from jobserver.auth import SESSION_COOKIE, SESSION_SECONDS, safe_target
from jobserver.errors import Forbidden, Unauthorized


def blueprint() -> Blueprint:
    """Return the sign-in pages, and the static files that all pages share."""
    routes = Blueprint(
        "jobserver_pages",
        __name__,
        template_folder="templates",
        static_folder="static",
        static_url_path="/jobserver-static",
    )
    pages.protect(routes, role=None)

    @routes.get("/sign-in")
    def sign_in() -> str | Response:
        """Show the form, or go on at once when the visitor may see our pages already."""
        target = _target(request.args.get("next"))
        credential = pages.gate().identify(request)
        if credential is not None and credential.principal.may("viewer"):
            return redirect(target, code=303)
        return _form(target=target)

    @routes.post("/sign-in")
    def open_session() -> Response | tuple[str, int]:
        """Exchange the token for a session."""
        target = _target(request.form.get("next"))
        try:
            session = pages.gate().sign_in(request, token=request.form.get("token", "").strip())
        except (Unauthorized, Forbidden) as error:
            return _form(target=target, error=str(error)), error.status
        response = redirect(target, code=303)
        response.set_cookie(
            SESSION_COOKIE,
            session,
            max_age=SESSION_SECONDS,
            path=request.script_root or "/",
            secure=request.is_secure,
            httponly=True,
            samesite="Lax",
        )
        return response

    @routes.post("/sign-out")
    def close_session() -> Response:
        """Forget the session; without one, just show the form."""
        gate = pages.gate()
        if (credential := gate.identify(request)) is not None:
            gate.admit(request, credential, role="user")
        response = redirect(url_for("jobserver_pages.sign_in"), code=303)
        response.delete_cookie(SESSION_COOKIE, path=request.script_root or "/")
        return response

    return routes


def _target(given: str | None) -> str:
    return safe_target(given, default=url_for("jobserver_rq.show"))


def _form(*, target: str, error: str | None = None) -> str:
    return render_template(
        "jobserver/sign_in.html",
        target=target,
        error=error,
        can_sign_in=pages.gate().can_sign_in,
    )
