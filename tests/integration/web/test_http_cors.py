"""Pages of other origins read the API where the configuration says so, and nowhere else."""

from __future__ import annotations

import pytest

from tests.integration.web.conftest import MakeShop

ORIGIN = "https://shop.example"
PATHS = ["/engine/api/v1/jobs/none", "/engine/api/v1/jobs/none/nothing", "/engine/health"]


@pytest.mark.parametrize("path", PATHS)
def test_configured_origin_reads_answers_and_errors(make_shop: MakeShop, path: str) -> None:
    client = make_shop(cors_origins=(ORIGIN,)).test_client()
    headers = client.get(path, headers={"Origin": ORIGIN}).headers
    assert headers["Access-Control-Allow-Origin"] == ORIGIN
    exposed = {name.strip() for name in headers["Access-Control-Expose-Headers"].split(",")}
    assert {"Location", "Retry-After", "ETag"} <= exposed
    assert "Origin" in headers["Vary"]


@pytest.mark.parametrize("path", PATHS)
def test_other_origins_read_nothing(make_shop: MakeShop, path: str) -> None:
    client = make_shop(cors_origins=(ORIGIN,)).test_client()
    headers = client.get(path, headers={"Origin": "https://evil.example"}).headers
    assert "Access-Control-Allow-Origin" not in headers
    assert "Origin" in headers["Vary"]


def test_preflight_is_answered_without_a_token(make_shop: MakeShop) -> None:
    client = make_shop(cors_origins=(ORIGIN,)).test_client()
    headers = {"Origin": ORIGIN, "Access-Control-Request-Method": "GET"}
    response = client.options(PATHS[0], headers=headers)
    assert response.status_code == 200
    assert "GET" in response.headers["Access-Control-Allow-Methods"]
    assert "Authorization" in response.headers["Access-Control-Allow-Headers"]
    assert "Access-Control-Max-Age" in response.headers


def test_star_admits_every_origin_without_cookies(make_shop: MakeShop) -> None:
    client = make_shop(cors_origins=("*",)).test_client()
    headers = client.get(PATHS[0], headers={"Origin": ORIGIN}).headers
    assert headers["Access-Control-Allow-Origin"] == "*"
    assert "Access-Control-Allow-Credentials" not in headers


def test_the_hosts_own_routes_get_no_headers(make_shop: MakeShop) -> None:
    client = make_shop(cors_origins=(ORIGIN,)).test_client()
    headers = client.get("/wrong", headers={"Origin": ORIGIN}).headers
    assert "Access-Control-Allow-Origin" not in headers


def test_without_origins_nothing_is_said(make_shop: MakeShop) -> None:
    headers = make_shop().test_client().get(PATHS[0], headers={"Origin": ORIGIN}).headers
    assert "Access-Control-Allow-Origin" not in headers
    assert "Vary" not in headers
