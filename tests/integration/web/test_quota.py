"""Requests are limited per asker, where an installation says so, and cost nothing elsewhere."""

from __future__ import annotations

import logging
import math
import re

import pytest
from flask.testing import FlaskClient
from redis import Redis

from jobserver import Config, errors
from tests.integration.web.conftest import MakeShop
from tests.integration.web.shop import TOKEN

ADMIN = {"Authorization": f"Bearer {TOKEN}"}
ADA = {"X-Customer": "ada"}
PATH = "/engine/api/v1/jobs/none"  # 404 for those who get in


@pytest.fixture
def client(make_shop: MakeShop) -> FlaskClient:
    """A client of a shop that lets each asker ask three times an hour."""
    return make_shop(rate_limit=(3, 3600)).test_client()


def test_more_than_the_quota_is_refused_with_when_to_come_back(client: FlaskClient) -> None:
    assert [client.get(PATH, headers=ADMIN).status_code for _ in range(3)] == [404] * 3
    refused = client.get(PATH, headers=ADMIN)
    assert (refused.status_code, refused.content_type) == (429, "application/problem+json")
    assert 1195 <= int(refused.headers["Retry-After"]) <= 1200
    problem = refused.get_json()
    assert problem["type"] == "#quota-exceeded"
    assert problem["violated-policies"] == ["default"]


def test_every_answer_says_what_is_left(client: FlaskClient) -> None:
    for left, full in ((2, 1200), (1, 2400), (0, 3600), (0, 3600)):
        answer = client.get(PATH, headers=ADMIN)
        assert answer.headers["RateLimit-Policy"] == '"default";q=3;w=3600'
        found = re.fullmatch(r'"default";r=(\d+);t=(\d+)', answer.headers["RateLimit"])
        assert found
        assert int(found[1]) == left
        assert full - 5 <= int(found[2]) <= full


def test_each_asker_has_a_quota_of_its_own(client: FlaskClient) -> None:
    for _ in range(4):
        client.get(PATH, headers=ADMIN)
    assert client.get(PATH, headers=ADA).headers["RateLimit"].startswith('"default";r=2')
    assert client.get(PATH, headers={"X-Customer": "grace"}).status_code == 404


def test_a_session_shares_the_quota_of_its_token(client: FlaskClient) -> None:
    client.post("/engine/sign-in", data={"token": TOKEN})
    assert client.get(PATH).headers["RateLimit"].startswith('"default";r=2')
    assert client.get(PATH, headers=ADMIN).headers["RateLimit"].startswith('"default";r=1')


def test_the_quota_comes_back_evenly(client: FlaskClient, redis: Redis) -> None:
    for _ in range(4):
        client.get(PATH, headers=ADMIN)
    (key,) = redis.scan_iter("jobserver:quota:*")
    assert 3590 < redis.ttl(key) <= 3600  # a full bucket is not kept
    full = float(redis.get(key) or 0)
    redis.set(key, full - 1_200_000)  # as if 20 minutes had passed
    assert [client.get(PATH, headers=ADMIN).status_code for _ in range(2)] == [404, 429]


@pytest.mark.parametrize("requests", [1, 3, 7, 1000])
def test_a_full_bucket_holds_exactly_the_quota(
    make_shop: MakeShop, redis: Redis, requests: int
) -> None:
    app = make_shop(rate_limit=(requests, 86400))
    broker = app.extensions["jobserver"].broker
    answers = [broker.run_script("quota", "x", requests, 86_400_000) for _ in range(requests + 1)]
    assert [answer[0] for answer in answers] == [1] * requests + [0]
    assert [answer[1] for answer in answers] == [*reversed(range(requests)), 0]
    assert answers[-1][3] <= math.ceil(86_400_000 / requests)


def test_who_is_not_admitted_and_what_is_open_to_all_is_not_counted(
    client: FlaskClient, redis: Redis
) -> None:
    for _ in range(5):
        assert client.get(PATH).status_code == 401
        assert client.get("/engine/health/live").status_code == 200
        assert client.options(PATH).status_code == 200
    assert not list(redis.scan_iter("jobserver:quota:*"))


def test_without_a_limit_nothing_is_asked_of_redis(make_shop: MakeShop, redis: Redis) -> None:
    def commands(limit: tuple[int, int] | None) -> int:
        client = make_shop(rate_limit=limit).test_client()
        client.get(PATH, headers=ADMIN)  # connects, loads scripts
        before = int(redis.info("stats")["total_commands_processed"])
        answer = client.get(PATH, headers=ADMIN)
        assert ("RateLimit" in answer.headers) == (limit is not None)
        return int(redis.info("stats")["total_commands_processed"]) - before

    # A command inside a script counts as one, too: TIME, GET, SET and the call itself.
    assert commands((100, 60)) - commands(None) == 4


def test_redis_away_limits_nobody(make_shop: MakeShop, caplog: pytest.LogCaptureFixture) -> None:
    app = make_shop(rate_limit=(1, 60), redis_url="redis://127.0.0.1:1/0")
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert app.test_client().get(PATH, headers=ADMIN).status_code == 503
    assert "not limited" in caplog.text


def test_the_setting_is_off_or_a_number_of_requests_in_a_number_of_seconds() -> None:
    assert Config.from_env({}).rate_limit is None
    assert Config.from_env({"RATE_LIMIT": "off"}).rate_limit is None
    assert Config.from_env({"RATE_LIMIT": "100/60"}).rate_limit == (100, 60)
    for wrong in ("0/60", "100", "100/", "100/0", "1/86401", "-1/5", "x/y", "100/60/1"):
        with pytest.raises(errors.ConfigInvalid, match="RATE_LIMIT"):
            Config.from_env({"RATE_LIMIT": wrong})
