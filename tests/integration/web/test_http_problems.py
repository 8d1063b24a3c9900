"""Errors of our blueprints are problem details (RFC 9457); those of the host app stay its own."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
from flask import Blueprint, Flask, abort, request
from marshmallow import Schema, ValidationError, fields

from jobserver import Config, JobServer, errors, http

CLOSED = "redis://127.0.0.1:1/0"


class Inner(Schema):
    count = fields.Integer(required=True)


class Outer(Schema):
    name = fields.String(required=True)
    items = fields.List(fields.Nested(Inner))


def raising(error: BaseException) -> Callable[[], Any]:
    def view() -> Any:
        raise error

    return view


def answer(view: Callable[[], Any], *, seed: bool = False, **options: Any) -> Any:
    """What a client gets for a view of a protected blueprint."""
    app = Flask("host")
    JobServer(app, config=Config(redis_url=CLOSED))
    routes = Blueprint("routes", __name__)
    routes.add_url_rule("/it", view_func=view, methods=["GET", "POST"], endpoint="it")
    http.protect(routes, role=None, seed=seed)
    app.register_blueprint(routes)
    return app.test_client().open("/it", **options)


ERRORS = [
    (errors.Malformed, 400),
    (errors.Unauthorized, 401),
    (errors.Forbidden, 403),
    (errors.JobNotFound, 404),
    (errors.CallbackRefused, 404),
    (errors.UnknownQueue, 404),
    (errors.UnknownJobType, 404),
    (errors.RunNotFound, 404),
    (errors.ScheduleNotFound, 404),
    (errors.TokenNotFound, 404),
    (errors.TokenExists, 409),
    (errors.KeyConflict, 409),
    (errors.WrongState, 409),
    (errors.JobPurged, 410),
    (errors.PayloadTooLarge, 413),
    (errors.PayloadInvalid, 422),
    (errors.QuotaExceeded, 429),
    (errors.NotBuilt, 501),
    (errors.IdempotencyInFlight, 409),
    (errors.IdempotencyMismatch, 422),
    (errors.NoDatabase, 501),
    (errors.Unavailable, 503),
    (errors.RedisUnavailable, 503),
    (errors.LedgerBehind, 503),
    (errors.DatabaseUnavailable, 503),
]


@pytest.mark.parametrize(("kind", "status"), ERRORS)
def test_every_error_of_the_engine_has_its_status(
    kind: type[errors.JobServerError], status: int
) -> None:
    response = answer(raising(kind()))
    found = response.get_json()
    assert response.status_code == found["status"] == status
    assert response.content_type == "application/problem+json"
    assert found["title"] == kind.title()
    assert found["instance"] == "/it"
    assert found["type"].startswith("#")
    assert "success" not in found


def test_every_error_class_is_covered() -> None:
    declared = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    answered = {
        kind for kind in declared if issubclass(kind, errors.JobServerError) and kind.status != 500
    }
    assert answered - {kind for kind, _ in ERRORS} <= {errors.NotFound, errors.Gone}


@pytest.mark.parametrize("status", [400, 404, 405, 409, 413, 415, 422, 429, 503])
def test_aborts_become_problems(status: int) -> None:
    response = answer(lambda: abort(status))
    assert (response.status_code, response.get_json()["status"]) == (status, status)
    assert response.content_type == "application/problem+json"


def test_seed_routes_say_success_false() -> None:
    assert answer(raising(errors.WrongState()), seed=True).get_json()["success"] is False


def test_401_names_the_scheme_and_503_when_to_come_back() -> None:
    assert answer(raising(errors.Unauthorized())).headers["WWW-Authenticate"] == "Bearer"
    assert int(answer(raising(errors.RedisUnavailable())).headers["Retry-After"]) > 0


def test_503_does_not_name_the_servers_address() -> None:
    response = answer(raising(errors.RedisUnavailable("Redis cannot be reached: 10.0.0.7:6379")))
    assert "10.0.0.7" not in response.get_data(as_text=True)


def test_wrong_fields_are_named_by_pointers() -> None:
    def view() -> None:
        Outer().load({"items": [{"count": 1}, {"count": "many"}], "a/b": 1})

    response = answer(view)
    assert response.status_code == 422
    pointers = {error["pointer"] for error in response.get_json()["errors"]}
    assert pointers == {"#/name", "#/items/1/count", "#/a~1b"}


def test_payload_errors_keep_their_pointers() -> None:
    found = answer(
        raising(errors.PayloadInvalid(errors=[{"pointer": "#/to", "detail": "Missing."}]))
    ).get_json()
    assert found["errors"] == [{"pointer": "#/to", "detail": "Missing."}]


def test_broken_json_is_a_400_and_another_media_type_a_415() -> None:
    def view() -> Any:
        return request.get_json()

    broken = answer(view, method="POST", data="{", content_type="application/json")
    assert broken.status_code == 400
    assert answer(view, method="POST", data="a=1").status_code == 415


@pytest.mark.parametrize("error", [KeyError("secret"), errors.ConfigInvalid("secret")])
def test_unexpected_errors_are_logged_and_kept_to_ourselves(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR):
        response = answer(raising(error), seed=True)
    assert response.status_code == 500
    assert "secret" not in response.get_data(as_text=True)
    assert response.get_json()["success"] is False
    assert "secret" in caplog.text


def test_field_error_of_the_hosts_marshmallow_is_a_422() -> None:
    response = answer(raising(ValidationError("Too long.", field_name="name")))
    assert response.get_json()["errors"] == [{"pointer": "#/name", "detail": "Too long."}]


def test_what_is_not_built_yet_is_nothing_to_log(caplog: pytest.LogCaptureFixture) -> None:
    response = answer(raising(errors.NotBuilt("The job type 'a.b' is planned")), seed=True)
    assert response.status_code == 501
    assert response.get_json() == {
        "type": "#not-built",
        "title": "This is planned, but not built yet.",
        "status": 501,
        "detail": "The job type 'a.b' is planned",
        "instance": "/it",
        "success": False,
    }
    assert caplog.text == ""


@pytest.mark.parametrize("seeds", [(True, False), (False, True)])
def test_below_a_prefix_that_two_share_unknown_paths_are_answered_as_the_seed_does(
    seeds: tuple[bool, bool],
) -> None:
    app = Flask("host")
    JobServer(app, config=Config(redis_url=CLOSED))
    for number, seed in enumerate(seeds):
        routes = Blueprint(f"routes{number}", __name__, url_prefix="/shared")
        routes.add_url_rule(f"/<name>/{number}", view_func=lambda name: name, endpoint="it")
        http.protect(routes, role=None, seed=seed)
        app.register_blueprint(routes)
    for response in (app.test_client().get("/shared/a/7"), app.test_client().put("/shared/a/0")):
        assert response.get_json()["success"] is False
