"""`/api/follows` and `/api/shops`: what the seed promises, on both databases."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from redis import Redis
from sqlalchemy import func, select
from werkzeug.test import TestResponse

from jobs.records import Follow, db
from jobserver import current
from jobserver.testing import assert_enqueued, enqueued, work
from tests.jobs.http import TOKEN, bearer
from tests.jobs.shops import a_product, make_shop, products_of, stock_shop


@pytest.fixture
def shops(app: Flask) -> list[int]:
    """The ids of twelve shops; the first has 25 products, the third is premium."""
    ids = [
        make_shop(f"Shop {number}", plan="premium" if number == 3 else "free")
        for number in range(1, 13)
    ]
    stock_shop(ids[0], [a_product(number) for number in range(25)])
    return ids


def post(client: FlaskClient, follower: Any, source: Any, **more: Any) -> TestResponse:
    body = {
        "mode": "resell",
        "followerShopId": follower,
        "sourceShopId": source,
        "markupPercentage": 20,
    }
    return client.post("/api/follows", json=body | more)


def test_resell_answers_202_and_its_sync_can_be_watched_to_the_end(
    client: FlaskClient, shops: list[int]
) -> None:
    response = post(client, shops[1], shops[0])
    assert response.status_code == 202
    body = response.get_json()
    assert (body["success"], body["sync_status"]) == (True, "pending")
    assert body["message"] == "Follow created. Products are syncing in background."
    follow = body["data"]
    assert follow["followerShopId"] == shops[1]
    assert follow["sourceShopId"] == shops[0]
    assert follow["markupPercentage"] == 20
    assert (follow["mode"], follow["status"], follow["lastSync"]) == ("resell", "active", None)
    job_id = f"follow-{follow['id']}"
    assert response.headers["Location"] == f"/api/v1/jobs/{job_id}"
    assert response.headers["Retry-After"] == "2"

    status = client.get(f"/api/follows/{follow['id']}/sync-status").get_json()
    assert status["success"] is True
    assert status["data"] == {
        "follow_id": follow["id"],
        "status": "waiting",
        "progress": 0,
        "jobId": job_id,
        "createdAt": status["data"]["createdAt"],
        "rawStatus": "queued",
    }
    (job,) = work()
    assert job.result == {"synced": 25, "skipped": 0, "errors": 0}
    status = client.get(f"/api/follows/{follow['id']}/sync-status").get_json()["data"]
    assert (status["status"], status["progress"]) == ("completed", 100)
    assert status["results"] == {"synced": 25, "skipped": 0, "errors": 0}
    shown = client.get(f"/api/follows/{follow['id']}").get_json()["data"]
    assert shown["lastSync"]["synced"] == 25
    assert shown["productErrors"] == []
    assert len(products_of(shops[1])) == 25


def test_monitor_answers_201_and_syncs_nothing(client: FlaskClient, shops: list[int]) -> None:
    response = post(client, shops[1], shops[0], mode="monitor")
    assert response.status_code == 201
    body = response.get_json()
    assert body["success"] is True
    assert "sync_status" not in body
    assert response.headers["Location"] == f"/api/follows/{body['data']['id']}"
    assert enqueued() == []
    status = client.get(f"/api/follows/{body['data']['id']}/sync-status")
    assert status.status_code == 200
    assert status.get_json()["data"]["status"] is None
    assert "only monitors" in status.get_json()["data"]["message"]


def test_the_body_is_json_whatever_its_content_type(client: FlaskClient, shops: list[int]) -> None:
    body = json.dumps(
        {
            "mode": "resell",
            "followerShopId": shops[1],
            "sourceShopId": shops[0],
            "markupPercentage": 20,
        }
    )
    form = "application/x-www-form-urlencoded"  # what the seed's curl -d sends
    assert client.post("/api/follows", data=body, content_type=form).status_code == 202


def test_pollers_are_told_the_configured_interval(
    app: Flask, client: FlaskClient, shops: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = app.extensions["jobserver"]
    monkeypatch.setattr(server, "config", replace(server.config, poll_interval=4.5))
    assert post(client, shops[1], shops[0]).headers["Retry-After"] == "5"


def test_a_wrong_page_is_not_called_a_wrong_payload(client: FlaskClient) -> None:
    problem = client.get("/api/follows?limit=0").get_json()
    assert problem["title"] == "The input is not valid."
    assert [error["pointer"] for error in problem["errors"]] == ["#/limit"]


@pytest.mark.parametrize(
    ("wrong", "name", "accepted"),
    [
        ({"mode": "steal"}, "mode", "resell or monitor"),
        ({"mode": None}, "mode", "resell or monitor"),
        ({"mode": 3}, "mode", "resell or monitor"),
        ({"followerShopId": "two"}, "followerShopId", "whole number from 1"),
        ({"followerShopId": 1.5}, "followerShopId", "whole number from 1"),
        ({"followerShopId": True}, "followerShopId", "whole number from 1"),
        ({"sourceShopId": 0}, "sourceShopId", "whole number from 1"),
        ({"sourceShopId": 2**63}, "sourceShopId", "whole number from 1"),
        ({"sourceShopId": None}, "sourceShopId", "whole number from 1"),
        ({"markupPercentage": -1}, "markupPercentage", "0 to 500"),
        ({"markupPercentage": 500.01}, "markupPercentage", "0 to 500"),
        ({"markupPercentage": 1.234}, "markupPercentage", "at most 2 decimals"),
        ({"markupPercentage": "much"}, "markupPercentage", "0 to 500"),
        ({"markupPercentage": None}, "markupPercentage", "0 to 500"),
        ({"markupPercentage": float("nan")}, "markupPercentage", "0 to 500"),
        ({"markupPercentage": -(10**300)}, "markupPercentage", "0 to 500"),
        ({"markupPercentage": True}, "markupPercentage", "0 to 500"),
        ({"markup": 3}, "markup", "unknown"),
    ],
)
def test_bad_input_is_refused_by_field_with_what_is_accepted(
    client: FlaskClient, shops: list[int], wrong: dict[str, Any], name: str, accepted: str
) -> None:
    response = post(client, shops[1], shops[0], **wrong)
    assert response.status_code == 422
    assert response.mimetype == "application/problem+json"
    body = response.get_json()
    assert body["success"] is False
    assert [error["pointer"] for error in body["errors"]] == [f"#/{name}"]
    assert accepted in body["errors"][0]["detail"]
    assert name in body["errors"][0]["detail"] or name == "markup"
    assert db.session.scalar(select(func.count()).select_from(Follow)) == 0


@pytest.mark.parametrize("name", ["mode", "followerShopId", "sourceShopId", "markupPercentage"])
def test_a_missing_field_is_named(client: FlaskClient, shops: list[int], name: str) -> None:
    body = {
        "mode": "resell",
        "followerShopId": shops[1],
        "sourceShopId": shops[0],
        "markupPercentage": 20,
    }
    del body[name]
    response = client.post("/api/follows", json=body)
    assert response.status_code == 422
    (error,) = response.get_json()["errors"]
    assert error["pointer"] == f"#/{name}"
    assert name in error["detail"]


@pytest.mark.parametrize(
    ("data", "status"),
    [(b"", 400), (b"{", 400), (b"[" * 100_000, 400), (b"\xff", 400), (b"[]", 422), (b"null", 422)],
)
def test_a_body_that_is_no_json_object_is_refused(
    client: FlaskClient, data: bytes, status: int
) -> None:
    response = client.post("/api/follows", data=data)
    assert response.status_code == status
    assert response.get_json()["success"] is False


def test_a_shop_cannot_follow_itself(client: FlaskClient, shops: list[int]) -> None:
    response = post(client, shops[0], shops[0])
    assert response.status_code == 422
    (error,) = response.get_json()["errors"]
    assert error["pointer"] == "#/sourceShopId"


@pytest.mark.parametrize("number", [999_999, 2**31 - 1])
def test_an_unknown_shop_is_404(client: FlaskClient, shops: list[int], number: int) -> None:
    for response in (post(client, number, shops[0]), post(client, shops[0], number)):
        assert response.status_code == 404
        assert str(number) in response.get_json()["detail"]


def test_shops_of_two_currencies_can_monitor_but_not_resell(
    client: FlaskClient, shops: list[int]
) -> None:
    tokyo = make_shop("Tokyo", currency="JPY")
    response = post(client, tokyo, shops[0])
    assert response.status_code == 422
    assert "JPY" in response.get_json()["errors"][0]["detail"]
    assert post(client, tokyo, shops[0], mode="monitor").status_code == 201


def test_a_second_follow_of_the_same_shop_is_409(client: FlaskClient, shops: list[int]) -> None:
    assert post(client, shops[1], shops[0]).status_code == 202
    response = post(client, shops[1], shops[0], mode="monitor")
    assert response.status_code == 409
    assert response.get_json()["success"] is False
    assert_enqueued("follows.sync_products", count=1)


def test_ten_at_once_make_one_follow_and_one_sync(app: Flask, shops: list[int]) -> None:
    statuses: list[int] = []

    def ask() -> None:
        client = app.test_client()
        client.environ_base["HTTP_AUTHORIZATION"] = bearer(TOKEN)
        statuses.append(post(client, shops[1], shops[0]).status_code)

    threads = [threading.Thread(target=ask) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(statuses) == [202] + [409] * 9
    assert_enqueued("follows.sync_products", count=1)


def test_a_premium_shop_s_sync_goes_first(client: FlaskClient, shops: list[int]) -> None:
    free = post(client, shops[1], shops[0]).get_json()["data"]["id"]
    premium = post(client, shops[2], shops[0]).get_json()["data"]["id"]
    assert [job.id for job in work()] == [f"follow-{premium}", f"follow-{free}"]


def test_without_redis_a_follow_is_still_made_and_syncs_when_redis_is_back(
    client: FlaskClient, shops: list[int], monkeypatch: pytest.MonkeyPatch, unreachable: None
) -> None:
    response = post(client, shops[1], shops[0])
    assert response.status_code == 202
    assert response.get_json()["sync_status"] == "pending"
    follow_id = response.get_json()["data"]["id"]
    status = client.get(f"/api/follows/{follow_id}/sync-status")
    assert status.status_code == 503
    assert status.headers["Retry-After"]


@pytest.fixture
def unreachable(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    """Point the server at a port where nothing listens."""
    from jobserver.broker import Broker, connect
    from jobserver.ledger import Outbox

    server = current.server()
    broker = Broker(connect("redis://127.0.0.1:1/0"), events_max_mib=1)
    monkeypatch.setattr(server, "broker", broker)
    monkeypatch.setattr(server, "outbox", Outbox(broker))


def test_a_sync_that_redis_has_not_got_yet_is_waiting(
    client: FlaskClient, shops: list[int], redis: Redis
) -> None:
    follow_id = post(client, shops[1], shops[0]).get_json()["data"]["id"]
    redis.flushall()
    status = client.get(f"/api/follows/{follow_id}/sync-status").get_json()["data"]
    assert (status["status"], status["progress"]) == ("waiting", 0)


def test_results_outlive_the_job(client: FlaskClient, shops: list[int], redis: Redis) -> None:
    follow_id = post(client, shops[1], shops[0]).get_json()["data"]["id"]
    work()
    redis.flushall()
    status = client.get(f"/api/follows/{follow_id}/sync-status").get_json()["data"]
    assert (status["status"], status["progress"]) == ("completed", 100)
    assert status["results"] == {"synced": 25, "skipped": 0, "errors": 0}


def test_a_canceled_sync_reads_as_failed(client: FlaskClient, shops: list[int]) -> None:
    follow_id = post(client, shops[1], shops[0]).get_json()["data"]["id"]
    current.server().cancel(f"follow-{follow_id}")
    status = client.get(f"/api/follows/{follow_id}/sync-status").get_json()["data"]
    assert (status["status"], status["failedReason"]) == ("failed", "canceled")
    assert "results" not in status


@pytest.mark.parametrize("number", [999_999, 10**30])
@pytest.mark.parametrize("path", ["", "/sync-status"])
def test_an_unknown_follow_is_404(client: FlaskClient, number: int, path: str) -> None:
    response = client.get(f"/api/follows/{number}{path}")
    assert response.status_code == 404
    assert response.get_json()["success"] is False


def test_everything_wants_a_token(app: Flask) -> None:
    for path in ("/api/follows", "/api/follows/1", "/api/follows/1/sync-status", "/api/shops"):
        assert app.test_client().get(path).status_code == 401
    assert app.test_client().post("/api/follows", json={}).status_code == 401


def test_follows_are_listed_newest_first_in_pages(client: FlaskClient, shops: list[int]) -> None:
    made = [
        post(client, follower, shops[0], mode="monitor").get_json()["data"]["id"]
        for follower in shops[1:6]
    ]
    seen: list[int] = []
    cursor = ""
    for _ in range(3):
        page = client.get(f"/api/follows?limit=2{cursor}").get_json()
        seen += [item["id"] for item in page["items"]]
        cursor = f"&cursor={page['nextCursor']}"
    assert seen == made[::-1]
    assert page["nextCursor"] is None


def test_shops_are_listed_with_their_products(client: FlaskClient, shops: list[int]) -> None:
    page = client.get("/api/shops").get_json()
    assert [item["id"] for item in page["items"]] == shops
    assert page["items"][0] == {
        "id": shops[0],
        "name": "Shop 1",
        "currency": "USD",
        "plan": "free",
        "productCount": 25,
    }
    first = client.get(f"/api/shops/{shops[0]}/products?limit=20")
    assert 'rel="next"' in first.headers["Link"]
    items = first.get_json()["items"]
    rest = client.get(first.headers["Link"].split(">")[0].lstrip("<")).get_json()
    assert len(items) == 20
    assert len(rest["items"]) == 5
    assert rest["nextCursor"] is None
    assert items[0]["handle"] == "product-0"
    assert [variant["price"] for variant in items[0]["variants"]] == ["10.00", "11.00"]
    assert client.get("/api/shops/999999/products").status_code == 404


@pytest.mark.parametrize("query", ["limit=0", "limit=201", "limit=x", "limit=²", "cursor=zzz"])
def test_a_wrong_page_is_refused(client: FlaskClient, shops: list[int], query: str) -> None:
    response = client.get(f"/api/shops?{query}")
    assert response.status_code == 422
    assert query.split("=")[0] in response.get_json()["errors"][0]["pointer"]


def test_a_cursor_fits_only_its_own_listing(client: FlaskClient, shops: list[int]) -> None:
    cursor = client.get("/api/shops?limit=1").get_json()["nextCursor"]
    assert client.get(f"/api/shops?cursor={cursor}").status_code == 200
    assert client.get(f"/api/follows?cursor={cursor}").status_code == 422
