"""Tokens: made and revoked by a command, known by their hash, looked up with a short memory."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import Result
from flask import Flask
from flask.testing import FlaskClient
from itsdangerous import BadSignature, URLSafeTimedSerializer
from sqlalchemy import create_engine, event, select

from jobserver import Config, JobServer, auth
from jobserver.auth import SESSION_COOKIE, Gate
from jobserver.ledger import actions, models, tokens
from jobserver.ledger.tokens import Tokens
from jobserver.testing import work
from tests.integration.web.conftest import MakeShop
from tests.integration.web.shop import TOKEN, db, send_letter

PROTECTED = "/engine/api/v1/jobs/none"  # 404 for those who get in


class Clock:
    """A clock that a test sets forward."""

    def __init__(self) -> None:
        self.now = datetime.now(UTC).timestamp()

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(shop: Flask, server: JobServer) -> Clock:
    """The clock of the shop's gate."""
    clock = Clock()
    shop.extensions[auth.GATE] = Gate(
        server.config, tokens=Tokens(db, clock=clock), app_secret=lambda: shop.secret_key
    )
    return clock


@pytest.fixture
def queries(shop: Flask) -> Iterator[list[str]]:
    """What the shop's database is asked, the host's own questions about customers left out."""
    asked: list[str] = []

    def note(_: Any, __: Any, statement: str, *___: Any) -> None:
        asked.append(statement)

    event.listen(db.engine, "before_cursor_execute", note)
    yield asked
    event.remove(db.engine, "before_cursor_execute", note)


def run(app: Flask, *arguments: str) -> Result:
    return app.test_cli_runner().invoke(args=["jobs", "token", *arguments])


def make(app: Flask, name: str = "front", role: str = "viewer", *more: str) -> str:
    result = run(app, "create", name, "--role", role, *more)
    assert result.exit_code == 0, result.output
    return result.stdout.strip()


def status(client: FlaskClient, secret: str, path: str = PROTECTED) -> int:
    return client.get(path, headers={"Authorization": f"Bearer {secret}"}).status_code


def test_a_token_opens_the_api_until_it_is_revoked(
    shop: Flask, visitor: FlaskClient, clock: Clock
) -> None:
    secret = make(shop)
    assert status(visitor, secret) == 404
    assert run(shop, "revoke", "front").exit_code == 0
    clock.now += 4.9
    assert status(visitor, secret) == 404
    clock.now += 0.1
    assert status(visitor, secret) == 401


def test_a_revocation_outlives_a_clock_that_is_set_back(
    shop: Flask, visitor: FlaskClient, clock: Clock
) -> None:
    secret = make(shop)
    assert status(visitor, secret) == 404
    run(shop, "revoke", "front")
    clock.now -= 3600
    assert status(visitor, secret) == 401


def test_polling_with_a_token_costs_no_sql(
    shop: Flask, visitor: FlaskClient, clock: Clock, queries: list[str]
) -> None:
    secret = make(shop)
    shop.extensions["jobserver"].enqueue("shop.send_letter", {"to": "ada"})
    path = "/engine/api/v1/jobs/letter-ada"
    queries.clear()
    for wanted, bearer in ((200, secret), (401, secret[:-1] + "-")):
        assert [status(visitor, bearer, path) for _ in range(20)] == [wanted] * 20
        assert len(queries) == 1
        queries.clear()
    clock.now += 5
    status(visitor, secret, path)
    assert len(queries) == 1


def test_what_cannot_be_a_token_of_ours_costs_no_sql(
    visitor: FlaskClient, queries: list[str]
) -> None:
    for bearer in ("", "x" * 53, "jobserver_", "jobserver_short", "eyJhbGciOi.J9.e30", "é" * 43):
        assert status(visitor, bearer) == 401
    assert queries == []


def test_the_database_holds_no_secret(shop: Flask) -> None:
    secret = make(shop)
    assert re.fullmatch(r"jobserver_[\w-]{43}", secret)
    with db.engine.connect() as connection:
        (row,) = connection.execute(select(models.tokens)).mappings()
    assert row["digest"] == hashlib.sha256(secret.encode()).hexdigest()
    assert secret not in str(dict(row))
    assert len({make(shop, f"front-{number}") for number in range(9)}) == 9


def test_a_token_ends_when_it_expires(shop: Flask, visitor: FlaskClient, clock: Clock) -> None:
    secret = make(shop, "brief", "viewer", "--expires", "30m")
    clock.now = datetime.now(UTC).timestamp() + 30 * 60 - 2
    assert status(visitor, secret) == 404
    clock.now += 3  # within what is remembered
    assert status(visitor, secret) == 401


def test_expiry_takes_a_time_with_its_offset(shop: Flask) -> None:
    later = datetime.now(UTC) + timedelta(days=400)
    make(shop, "late", "viewer", "--expires", later.isoformat())
    assert tokens.listed(db)[0].expires_at == later


@pytest.mark.parametrize("when", ["yesterday", "2020-01-01T00:00+00:00", "2999-01-01", "5", ""])
def test_expiry_refuses_what_is_no_later_time(shop: Flask, when: str) -> None:
    result = run(shop, "create", "front", "--role", "viewer", "--expires", when)
    assert result.exit_code == 2
    assert "12h" in result.output
    assert tokens.listed(db) == []


@pytest.mark.parametrize("name", ["", "admin", "local", "a b", "-x", "é", "x" * 65, "a:b"])
def test_names_that_would_confuse_are_refused(shop: Flask, name: str) -> None:
    result = run(shop, "create", "--role", "viewer", "--", name)
    assert result.exit_code == 1
    assert "#/name" in result.output
    assert "Traceback" not in result.output


def test_a_name_is_given_once_for_ever(shop: Flask) -> None:
    make(shop)
    run(shop, "revoke", "front")
    result = run(shop, "create", "front", "--role", "admin")
    assert result.exit_code == 1
    assert "another name" in result.output


@pytest.mark.parametrize("more", [["--role", "user"], ["--role", "viewer", "--owner", "7"], []])
def test_a_user_has_an_owner_and_no_other_role_does(shop: Flask, more: list[str]) -> None:
    assert run(shop, "create", "front", *more).exit_code != 0
    assert tokens.listed(db) == []


def test_the_list_shows_all_but_the_secrets(shop: Flask) -> None:
    secrets = [
        make(shop, "front", "user", "--owner", "seven"),
        make(shop, "old", "operator"),
        make(shop, "brief", "viewer", "--expires", "1h"),
    ]
    run(shop, "revoke", "old")
    shown = run(shop, "list").output
    lines = {line.split()[0]: line for line in shown.splitlines()}
    assert "user" in lines["front"]
    assert "seven" in lines["front"]
    assert lines["front"].endswith("valid")
    assert "revoked" in lines["old"]
    assert "until" in lines["brief"]
    assert not any(secret[10:] in shown for secret in secrets)


def test_revoking_again_changes_nothing_and_says_so(shop: Flask) -> None:
    make(shop)
    run(shop, "revoke", "front")
    (first,) = tokens.listed(db)
    assert "already" in run(shop, "revoke", "front").output
    assert tokens.listed(db) == [first]
    assert run(shop, "revoke", "nobody").exit_code == 1


def test_making_and_revoking_are_recorded(shop: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGNAME", "grace")
    secret = make(shop, "front", "user", "--owner", "7")
    run(shop, "revoke", "front")
    run(shop, "revoke", "nobody")
    found = actions.find(db)
    assert [(action.action, action.target, action.outcome) for action in found] == [
        ("token.revoke", "nobody", "failed"),
        ("token.revoke", "front", "done"),
        ("token.create", "front", "done"),
    ]
    assert {action.principal for action in found} == {"shell:grace"}
    assert found[-1].detail == "role user, owner 7"
    assert secret not in str(found)


def test_an_app_without_database_keeps_its_admin_token_only(valkey: str) -> None:
    app = Flask("small")
    JobServer(app, config=Config(redis_url=valkey, admin_token=TOKEN))
    for arguments in (["create", "x", "--role", "viewer"], ["list"], ["revoke", "x"]):
        result = run(app, *arguments)
        assert result.exit_code == 1
        assert "JobServer(app, db=…)" in result.output
    client = app.test_client()
    assert status(client, TOKEN, "/api/v1/jobs/none") == 404
    assert status(client, "jobserver_" + "x" * 43, "/api/v1/jobs/none") == 401


def test_without_the_tables_the_command_says_what_to_do_and_no_token_is_valid(
    shop: Flask, visitor: FlaskClient
) -> None:
    with db.engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE jobserver_token")
    result = run(shop, "create", "front", "--role", "viewer")
    assert result.exit_code == 1
    assert "flask jobs migrate" in result.output
    assert status(visitor, "jobserver_" + "x" * 43) == 401


def test_a_database_that_is_away_ends_no_token_that_is_remembered(
    shop: Flask, server: JobServer, visitor: FlaskClient, caplog: pytest.LogCaptureFixture
) -> None:
    secret, other = make(shop), make(shop, "other")
    clock, binds = Clock(), SimpleNamespace(engines={None: db.engine})
    shop.extensions[auth.GATE] = Gate(server.config, tokens=Tokens(binds, clock=clock))
    assert status(visitor, secret) == 404
    binds.engines[None] = create_engine("postgresql+psycopg://x@127.0.0.1:1/x?connect_timeout=2")
    clock.now += 4.9
    assert status(visitor, secret) == 404
    refused = visitor.get(PROTECTED, headers={"Authorization": f"Bearer {other}"})
    assert (refused.status_code, refused.headers["Retry-After"]) == (503, "2")
    assert refused.content_type == "application/problem+json"
    assert "127.0.0.1" not in refused.text
    clock.now += 0.2
    assert status(visitor, secret) == 503
    assert status(visitor, TOKEN) == 404
    assert visitor.post("/engine/sign-in", data={"token": secret}).status_code == 503
    assert secret not in caplog.text


@pytest.mark.parametrize(
    ("role", "page", "api"), [("viewer", 200, 404), ("operator", 200, 404), ("user", 403, 404)]
)
def test_any_token_signs_in_and_its_session_ends_with_it(
    shop: Flask, visitor: FlaskClient, clock: Clock, role: str, page: int, api: int
) -> None:
    secret = make(shop, "front", role, *(["--owner", "7"] if role == "user" else []))
    answer = visitor.post("/engine/sign-in", data={"token": secret})
    assert answer.status_code == 303
    cookie = visitor.get_cookie(SESSION_COOKIE)
    assert cookie
    assert secret not in cookie.value
    assert visitor.get("/engine/rq/").status_code == page
    assert visitor.get(PROTECTED).status_code == api
    run(shop, "revoke", "front")
    clock.now += 5
    assert visitor.get(PROTECTED).status_code == 401


def test_a_ticket_and_an_open_stream_end_with_their_token(
    shop: Flask, server: JobServer, visitor: FlaskClient, clock: Clock
) -> None:
    job = server.enqueue(send_letter, {"to": "ada"})
    headers = {"Authorization": f"Bearer {make(shop)}"}
    path = f"/engine/api/v1/jobs/{job.id}"
    url = visitor.post(f"{path}/ticket", headers=headers).get_json()["eventsUrl"]
    try:
        stream = visitor.get(url)
        parts = stream.iter_encoded()
        assert b"event: state" in next(parts)
        run(shop, "revoke", "front")
        clock.now += 5
        work()
        assert list(parts) == []
        assert visitor.get(url).status_code == 401
    finally:
        server.lookout.close()


def test_a_revoked_token_opens_no_session(shop: Flask, visitor: FlaskClient) -> None:
    secret = make(shop)
    run(shop, "revoke", "front")
    assert visitor.post("/engine/sign-in", data={"token": secret}).status_code == 401


def test_a_session_is_never_signed_with_the_admin_token_itself(make_shop: MakeShop) -> None:
    app = make_shop()
    app.secret_key = None
    with app.app_context():
        secret = make(app)
    client = app.test_client()
    assert client.post("/engine/sign-in", data={"token": secret}).status_code == 303
    assert client.get(PROTECTED).status_code == 404
    cookie = client.get_cookie(SESSION_COOKIE)
    assert cookie
    # Whoever is given a signature could try tokens against it, as fast as they can hash.
    with pytest.raises(BadSignature):
        URLSafeTimedSerializer(TOKEN, salt="jobserver.session").loads(cookie.value)


def test_a_users_token_sees_the_jobs_of_its_owner_only(
    shop: Flask, server: JobServer, visitor: FlaskClient
) -> None:
    secret = make(shop, "front", "user", "--owner", "7")
    own, *others = (
        server.enqueue(send_letter, {"to": to}, owner=owner)
        for to, owner in (("ada", "7"), ("grace", "8"), ("nobody", None))
    )
    assert status(visitor, secret, f"/engine/api/v1/jobs/{own.id}") == 200
    for job in others:
        assert status(visitor, secret, f"/engine/api/v1/jobs/{job.id}") == 404


def test_a_role_of_a_newer_version_is_none_here(shop: Flask, visitor: FlaskClient) -> None:
    secret = make(shop)
    with db.engine.begin() as connection:
        connection.execute(models.tokens.update().values(role="emperor"))
    assert status(visitor, secret) == 401


def test_refused_tokens_are_logged_without_them(
    shop: Flask, visitor: FlaskClient, caplog: pytest.LogCaptureFixture
) -> None:
    secret = make(shop)
    run(shop, "revoke", "front")
    with caplog.at_level(logging.DEBUG):
        assert status(visitor, secret) == 401
        visitor.post("/engine/sign-in", data={"token": secret})
    assert caplog.text.count("refused") == 2
    assert secret[10:] not in caplog.text
    assert hashlib.sha256(secret.encode()).hexdigest() not in caplog.text


def test_the_memory_of_tokens_is_bounded(shop: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "MOST_REMEMBERED", 3)
    known = Tokens(db)
    for number in range(10):
        assert known.named(f"nobody-{number}") is None
    assert len(known._seen) == 3


def test_a_user_makes_jobs_of_types_for_users_under_their_own_keys(
    shop: Flask, server: JobServer, visitor: FlaskClient
) -> None:
    headers = {"Authorization": f"Bearer {make(shop, 'front', 'user', '--owner', '7')}"}
    letter = {"type": "shop.send_letter", "payload": {"to": "ada"}}
    made = visitor.post("/engine/api/v1/jobs", json=letter, headers=headers)
    assert (made.status_code, server.fetch("letter-ada").owner) == (202, "7")
    keyed = {**letter, "options": {"key": "the-shops-own"}}
    assert visitor.post("/engine/api/v1/jobs", json=keyed, headers=headers).status_code == 403
