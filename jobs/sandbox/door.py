"""What every vendor has: a door that asks for the token, fails as told, and notes who came."""

import math
import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson
from flask import Blueprint, Response, g, request
from marshmallow import Schema, fields, validate

TOKEN = "sandbox"  # noqa: S105  # every vendor's: what lies behind it is made up


class RateSchema(Schema):
    """Requests that are let in per window of some seconds."""

    requests = fields.Integer(required=True, validate=validate.Range(0))
    seconds = fields.Float(required=True, validate=validate.Range(0.1))


class FaultsSchema(Schema):
    """What goes wrong: the first `errors` requests after `after` good ones are answered `status`.

    `delay` is in seconds, for each request.
    """

    after = fields.Integer(load_default=0, validate=validate.Range(0))
    errors = fields.Integer(load_default=0, validate=validate.Range(0))
    status = fields.Integer(load_default=500, validate=validate.Range(400, 599))
    rate = fields.Nested(RateSchema, load_default=None, allow_none=True)
    delay = fields.Float(load_default=0, validate=validate.Range(0, 60))


class BehaviourSchema(Schema):
    """How a vendor behaves; each adds its data's settings."""

    faults = fields.Nested(FaultsSchema, load_default=lambda: FaultsSchema().load({}))


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One request: `at` is the Unix time of its arrival, `ms` what it took here."""

    vendor: str
    method: str
    path: str
    query: Mapping[str, str]
    if_none_match: str | None
    status: int
    at: float
    ms: float


class Refused(Exception):
    """The request is answered with this status, and a code that programs can tell apart."""

    def __init__(self, status: int, code: str, message: str, **headers: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.headers = headers


class Door:
    """One vendor's door; `settings` is what its module makes its data from."""

    def __init__(self, name: str, *, schema: Schema, asked: deque[Asked]) -> None:
        self.name = name
        self._schema = schema
        self._asked = asked
        self._lock = threading.Lock()
        self.steer({})

    def steer(self, behaviour: object) -> None:
        """Behave as told from now on. Raises ValidationError."""
        settings = self._schema.load(behaviour)  # type: ignore[arg-type]
        with self._lock:
            self.settings: dict[str, Any] = settings
            self._count = 0
            self._window = (0.0, 0)  # when it began (monotonic), how many it has let in

    def described(self) -> Any:
        """Return the behaviour, defaults included."""
        return self._schema.dump(self.settings)

    def open(self, blueprint: Blueprint) -> Blueprint:
        """Let requests to a blueprint come through this door."""
        blueprint.before_request(self._enter)
        blueprint.after_request(self._leave)
        blueprint.register_error_handler(Refused, refusal)
        return blueprint

    def _enter(self) -> None:
        g.began, g.at = time.perf_counter(), time.time()
        if request.authorization is None or request.authorization.token != TOKEN:
            raise Refused(
                401, "unauthorized", "A bearer token is needed", WWW_Authenticate="Bearer"
            )
        faults = self.settings["faults"]
        time.sleep(faults["delay"])
        with self._lock:
            self._let_in(faults["rate"])
            self._count += 1
            failing = 0 < self._count - faults["after"] <= faults["errors"]
        if failing:
            raise Refused(faults["status"], "broken", "Something went wrong on our side")

    def _let_in(self, rate: Mapping[str, Any] | None) -> None:
        if rate is None:
            return
        now = time.monotonic()
        began, count = self._window
        if now - began >= rate["seconds"]:
            began, count = now, 0
        if count >= rate["requests"]:
            seconds = max(1, math.ceil(began + rate["seconds"] - now))
            raise Refused(429, "rate_limited", "Too many requests", Retry_After=str(seconds))
        self._window = (began, count + 1)

    def _leave(self, response: Response) -> Response:
        if response.status_code == 200:
            response.add_etag()
            response.make_conditional(request)
        took = (time.perf_counter() - g.began) * 1000
        response.headers["Server-Timing"] = f"app;dur={took:.2f}"
        self._asked.append(
            Asked(
                vendor=self.name,
                method=request.method,
                path=request.path,
                query=request.args.to_dict(),
                if_none_match=request.headers.get("If-None-Match"),
                status=response.status_code,
                at=g.at,
                ms=round(took, 2),
            )
        )
        return response


def refusal(error: Refused) -> Response:
    """Answer a refusal."""
    response = answer({"error": {"code": error.code, "message": str(error)}}, status=error.status)
    response.headers.extend({name.replace("_", "-"): of for name, of in error.headers.items()})
    return response


def answer(body: object, *, status: int = 200) -> Response:
    """Answer JSON."""
    return Response(orjson.dumps(body), status, content_type="application/json")
