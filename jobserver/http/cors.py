"""Cross-origin requests (Fetch standard, CORS protocol), answered for configured origins only."""

from __future__ import annotations

from collections.abc import Collection

from flask import Blueprint, Response, request

from jobserver import current

EXPOSED = (
    "ETag, Idempotent-Replayed, Link, Location, Preference-Applied, RateLimit, RateLimit-Policy, "
    "Retry-After, X-Request-Id"
)
ACCEPTED = (
    "Authorization, Content-Type, Idempotency-Key, If-None-Match, Prefer, X-CSRF-Token, "
    "X-Request-Id"
)
PREFLIGHT_SECONDS = 600


def install(blueprint: Blueprint) -> None:
    """Let pages of the configured origins (CORS_ORIGINS) read this blueprint's answers."""
    blueprint.after_request(_allow_origin)


def _allow_origin(response: Response) -> Response:
    return allow_origin(response, origins=current.server().config.cors_origins)


def allow_origin(response: Response, *, origins: Collection[str]) -> Response:
    """Add the CORS headers to a response when the request's origin is one of `origins`."""
    if not origins:
        return response
    headers = response.headers
    origin = request.headers.get("Origin")
    response.vary.add("Origin")
    if origin is not None and origin in origins:
        headers["Access-Control-Allow-Origin"] = origin
        headers["Access-Control-Allow-Credentials"] = "true"
    elif "*" in origins:
        headers["Access-Control-Allow-Origin"] = "*"
    else:
        return response
    headers["Access-Control-Expose-Headers"] = EXPOSED
    if request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers:
        headers["Access-Control-Allow-Methods"] = response.headers.get("Allow", "")
        headers["Access-Control-Allow-Headers"] = ACCEPTED
        headers["Access-Control-Max-Age"] = str(PREFLIGHT_SECONDS)
    return response
