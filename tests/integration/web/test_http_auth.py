"""Who gets in: tokens, signed-in browsers, the host's own users, and nobody else."""

from __future__ import annotations

import logging
import re
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from redis import Redis
from werkzeug.test import TestResponse

from jobserver import Config, JobServer, errors
from jobserver.auth import SESSION_COOKIE, Principal
from tests.integration.web.conftest import MakeShop
from tests.integration.web.shop import TOKEN

PROTECTED = "/engine/api/v1/jobs/none"  # 404 for those who get in


def sign_in(client: FlaskClient, **options: Any) -> TestResponse:
    data = {"token": TOKEN, "next": "/engine/rq/", **options.pop("data", {})}
    return client.post("/engine/sign-in", data=data, **options)


def csrf_token(client: FlaskClient) -> str:
    page = client.get("/engine/rq/").get_data(as_text=True)
    found = re.search(r'name="csrf_token" value="([^"]+)"', page)
    assert found
    return found[1]


@pytest.mark.parametrize("path", [PROTECTED, "/engine/rq/0/data/queues.json"])
@pytest.mark.parametrize(
    "authorization",
    [None, "Bearer wrong", "Bearer", "Bearer \u00e9", "Basic YTpi", f"bearer{TOKEN}"],
)
def test_without_a_valid_token_nobody_gets_in(
    visitor: FlaskClient, path: str, authorization: str | None
) -> None:
    headers = {} if authorization is None else {"Authorization": authorization}
    assert visitor.get(path, headers=headers).status_code in (401, 303)


def test_refusal_names_the_scheme(visitor: FlaskClient) -> None:
    response = visitor.get(PROTECTED)
    assert response.status_code == 401
    assert response.headers["WWW-Authenticate"] == "Bearer"
    assert response.content_type == "application/problem+json"


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_the_token_opens_the_api(visitor: FlaskClient, scheme: str) -> None:
    response = visitor.get(PROTECTED, headers={"Authorization": f"{scheme} {TOKEN}"})
    assert response.status_code == 404


def test_without_an_admin_token_no_token_is_right(make_shop: MakeShop) -> None:
    client = make_shop(admin_token=None).test_client()
    for token in ("", "None"):
        headers = {"Authorization": f"Bearer {token}"}
        assert client.get(PROTECTED, headers=headers).status_code == 401


def test_sign_in_says_when_there_can_be_no_token(valkey: str) -> None:
    app = Flask("small")
    JobServer(app, config=Config(redis_url=valkey))
    assert "JOBSERVER_ADMIN_TOKEN" in app.test_client().get("/sign-in").text


def test_refused_attempts_are_logged_without_the_token(
    visitor: FlaskClient, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        visitor.get(PROTECTED, headers={"Authorization": "Bearer not-the-token"})
        visitor.post("/engine/sign-in", data={"token": "not-the-token"})
    assert caplog.text.count("refused") == 2
    assert "127.0.0.1" in caplog.text
    assert "not-the-token" not in caplog.text


def test_signing_in_opens_pages_and_api(visitor: FlaskClient) -> None:
    response = sign_in(visitor)
    assert (response.status_code, response.headers["Location"]) == (303, "/engine/rq/")
    cookie = response.headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Lax" in cookie
    assert TOKEN not in cookie
    assert visitor.get("/engine/rq/").status_code == 200
    assert visitor.get(PROTECTED).status_code == 404


def test_cookie_is_secure_over_https(visitor: FlaskClient) -> None:
    assert "Secure" in sign_in(visitor, base_url="https://localhost").headers["Set-Cookie"]
    assert "Secure" not in sign_in(visitor).headers["Set-Cookie"]


def test_a_wrong_token_shows_the_form_again(visitor: FlaskClient) -> None:
    response = sign_in(visitor, data={"token": "wrong"})
    assert response.status_code == 401
    assert "Set-Cookie" not in response.headers
    assert 'role="alert"' in response.get_data(as_text=True)


def test_pages_send_visitors_to_sign_in_and_back(visitor: FlaskClient) -> None:
    wanted = "/engine/rq/0/view/jobs/mail/queued/8/asc/1"
    response = visitor.get(wanted)
    assert response.status_code == 303
    form = visitor.get(response.headers["Location"]).get_data(as_text=True)
    assert f'name="next" value="{wanted}"' in form


@pytest.mark.parametrize(
    "target",
    [
        "https://evil.example/",
        "//evil.example",
        "/\\evil.example",
        "evil",
        "/a\r\nb",
        "\t//evil.example",
    ],
)
def test_sign_in_never_leads_to_another_site(visitor: FlaskClient, target: str) -> None:
    response = sign_in(visitor, data={"next": target})
    assert response.headers["Location"] == "/engine/rq/"


def test_a_forged_or_foreign_cookie_is_nobody(visitor: FlaskClient, make_shop: MakeShop) -> None:
    for secret, token in (("another-secret-key", TOKEN), (None, "another-token")):
        other = make_shop(secret_key=secret, admin_token=token).test_client()
        sign_in(other, data={"token": token})
        cookie = other.get_cookie(SESSION_COOKIE)
        assert cookie
        visitor.set_cookie(SESSION_COOKIE, cookie.value)
        assert visitor.get(PROTECTED).status_code == 401
    visitor.set_cookie(SESSION_COOKIE, "nonsense")
    assert visitor.get(PROTECTED).status_code == 401


def test_a_changed_token_ends_its_sessions(make_shop: MakeShop) -> None:
    before, after = make_shop().test_client(), make_shop(admin_token="another-token").test_client()
    sign_in(before)
    cookie = before.get_cookie(SESSION_COOKIE)
    assert cookie
    after.set_cookie(SESSION_COOKIE, cookie.value)
    assert after.get(PROTECTED).status_code == 401


def test_signed_in_writes_need_the_sessions_token(visitor: FlaskClient) -> None:
    sign_in(visitor)
    assert visitor.post("/engine/sign-out").status_code == 403
    assert visitor.post("/engine/sign-out", data={"csrf_token": "wrong"}).status_code == 403
    assert visitor.get(PROTECTED).status_code == 404
    right = visitor.post("/engine/sign-out", data={"csrf_token": csrf_token(visitor)})
    assert right.status_code == 303
    assert visitor.get(PROTECTED).status_code == 401


def test_token_in_the_header_serves_scripts(visitor: FlaskClient) -> None:
    sign_in(visitor)
    headers = {"X-CSRF-Token": csrf_token(visitor)}
    assert visitor.post("/engine/sign-out", headers=headers).status_code == 303


CROSS_SITE = [
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
    {"Origin": "https://evil.example"},
    {"Origin": "null"},
    {"Origin": "http://["},
    {"Origin": "localhost"},
    {"Origin": "http://localhost:9999"},
    {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"},
]


@pytest.mark.parametrize("headers", CROSS_SITE)
def test_other_sites_cannot_write_or_sign_in(visitor: FlaskClient, headers: dict[str, str]) -> None:
    assert sign_in(visitor, headers=headers).status_code == 403
    sign_in(visitor)
    data = {"csrf_token": csrf_token(visitor)}
    assert visitor.post("/engine/sign-out", data=data, headers=headers).status_code == 403


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "same-origin", "Origin": "null"},
        {"Origin": "http://localhost"},
        {"Origin": "https://localhost"},
        {"Origin": "https://shop.example", "Sec-Fetch-Site": "cross-site"},
    ],
)
def test_this_site_and_configured_origins_can(make_shop: MakeShop, headers: dict[str, str]) -> None:
    client = make_shop(cors_origins=("https://shop.example",)).test_client()
    assert sign_in(client, headers=headers).status_code == 303


def test_customers_see_no_operators_pages_until_they_sign_in(ada: FlaskClient) -> None:
    response = ada.get("/engine/rq/")
    assert response.status_code == 403
    assert "viewer" in response.get_data(as_text=True)
    assert ada.get("/engine/sign-in").status_code == 200
    sign_in(ada)
    assert ada.get("/engine/rq/").status_code == 200


def test_a_visitor_who_is_not_signed_in_is_not_logged_as_refused(
    visitor: FlaskClient, caplog: pytest.LogCaptureFixture
) -> None:
    visitor.get("/engine/rq/")
    assert "refused" not in caplog.text


@pytest.mark.parametrize("peer", ["127.0.0.1", "127.8.8.8", "::1"])
def test_auth_off_admits_this_machine(make_shop: MakeShop, peer: str) -> None:
    client = make_shop(auth="off").test_client()
    for host in ("localhost", "localhost:3000", "127.0.0.1:3000", "[::1]:3000", "[::1]"):
        headers = {"Host": host}
        found = client.get(PROTECTED, headers=headers, environ_base={"REMOTE_ADDR": peer})
        assert found.status_code == 404


@pytest.mark.parametrize(
    ("peer", "headers"),
    [
        ("10.0.0.1", {}),
        ("", {}),
        ("127.0.0.1", {"X-Forwarded-For": "127.0.0.1"}),
        ("127.0.0.1", {"X-Forwarded-Proto": "https"}),
        ("127.0.0.1", {"Forwarded": "for=127.0.0.1"}),
        ("127.0.0.1", {"x-real-ip": "127.0.0.1"}),
        ("127.0.0.1", {"Via": "1.1 proxy"}),
        ("127.0.0.1", {"Host": "evil.example"}),
        ("127.0.0.1", {"Host": "evil.example:127"}),
        ("127.0.0.1", {"Host": "["}),
        ("not-an-address", {}),
    ],
)
def test_auth_off_admits_nobody_else(
    make_shop: MakeShop, peer: str, headers: dict[str, str]
) -> None:
    client = make_shop(auth="off").test_client()
    response = client.get(PROTECTED, headers=headers, environ_base={"REMOTE_ADDR": peer})
    assert response.status_code == 401


def test_auth_off_believes_no_proxy_of_the_host(make_shop: MakeShop) -> None:
    from werkzeug.middleware.proxy_fix import ProxyFix

    app = make_shop(auth="off")
    app.wsgi_app = ProxyFix(app.wsgi_app)  # type: ignore[method-assign]
    headers = {"X-Forwarded-For": "127.0.0.1"}
    client = app.test_client()
    spoofed = client.get(PROTECTED, headers=headers, environ_base={"REMOTE_ADDR": "10.0.0.1"})
    assert spoofed.status_code == 401


def test_auth_off_behind_a_proxy_is_refused_at_start(redis: Redis) -> None:
    with pytest.raises(errors.ConfigInvalid, match="JOBSERVER_AUTH"):
        JobServer(Flask("host"), config=Config(auth="off", proxy_hops=1))


def test_proxy_hops_are_believed(make_shop: MakeShop) -> None:
    client = make_shop(proxy_hops=1).test_client()
    headers = {"X-Forwarded-Proto": "https", "X-Forwarded-Host": "jobs.example"}
    response = sign_in(client, headers={**headers, "Origin": "https://jobs.example"})
    assert response.status_code == 303
    assert "Secure" in response.headers["Set-Cookie"]


@pytest.mark.parametrize(
    ("role", "admitted"),
    [
        ("user", {"user"}),
        ("viewer", {"user", "viewer"}),
        ("operator", {"user", "viewer", "operator"}),
        ("admin", {"user", "viewer", "operator", "admin"}),
    ],
)
def test_each_role_may_do_what_lower_ones_may(role: Any, admitted: set[str]) -> None:
    principal = Principal(name="x", role=role)
    assert {r for r in ("user", "viewer", "operator", "admin") if principal.may(r)} == admitted  # type: ignore[arg-type]


def test_a_user_without_owner_sees_nothing() -> None:
    assert not Principal(name="x").sees(None)
    assert not Principal(name="x").sees("1")
    assert Principal(name="x", owner="1").sees("1")
    assert Principal(name="x", role="viewer").sees(None)


def test_docs_are_a_viewers_unless_they_are_configured_open(make_shop: MakeShop) -> None:
    closed, metrics, docs = (
        make_shop(open_routes=frozenset(words)).test_client()
        for words in ((), ("metrics",), ("docs",))
    )
    path = "/engine/openapi.json"
    assert closed.get(path).status_code == metrics.get(path).status_code == 401
    assert closed.get(path, headers={"X-Customer": "ada"}).status_code == 403
    assert docs.get(path).status_code == 200
    assert docs.get(PROTECTED).status_code == 401


def test_open_routes_are_of_two_words() -> None:
    assert Config.from_env({}).open_routes == frozenset()
    assert Config.from_env({"OPEN_ROUTES": "Docs, metrics"}).open_routes == {"docs", "metrics"}
    with pytest.raises(errors.ConfigInvalid, match="OPEN_ROUTES"):
        Config.from_env({"OPEN_ROUTES": "docs,admin"})
