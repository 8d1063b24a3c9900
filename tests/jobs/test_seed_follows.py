"""`/api/follows` against the examples of the document on product sync, and against its schemas."""

from __future__ import annotations

import json
from typing import Any

import pytest
from flask.testing import FlaskClient
from marshmallow import Schema
from redis import Redis
from werkzeug.test import TestResponse

from jobs.follows import schemas
from jobs.records import db
from jobserver import current
from jobserver.recorder import Recorder
from jobserver.testing import assert_enqueued, work
from tests.integration.web.contract import assert_like
from tests.jobs.shops import a_product, make_shop, stock_shop

CREATED = json.loads("""{
  "success": true,
  "data": {},
  "message": "Follow created. Products are syncing in background.",
  "sync_status": "pending"
}""")
FOLLOW = {  # "{ ...follow object... }" in the document: what the request held, and an id
    **{"id": 1, "mode": "resell", "followerShopId": 1, "sourceShopId": 2},
    "markupPercentage": 20,
}
OUR_FOLLOW = {"status", "createdAt", "updatedAt", "lastSync"}
STATUS = json.loads("""{
  "success": true,
  "data": {
    "follow_id": 1,
    "status": "active",
    "progress": 45,
    "jobId": "12345",
    "createdAt": "2025-11-05T...",
    "results": {
      "synced": 98,
      "skipped": 2,
      "errors": 0
    }
  }
}""")


@pytest.fixture
def shops(app: object) -> tuple[int, int]:
    """A follower and its source, which has products."""
    follower, source = make_shop("Follower"), make_shop("Source")
    stock_shop(source, [a_product(number) for number in range(3)])
    return follower, source


def post(client: FlaskClient, shops: tuple[int, int], **headers: str) -> TestResponse:
    body = {
        **{"mode": "resell", "followerShopId": shops[0], "sourceShopId": shops[1]},
        "markupPercentage": 20,
    }
    return client.post("/api/follows", json=body, headers=headers)


def status(client: FlaskClient, follow_id: int) -> Any:
    response = client.get(f"/api/follows/{follow_id}/sync-status")
    assert response.status_code == 200
    assert schemas.SyncStatusAnswerSchema().validate(response.get_json()) == {}
    return response.get_json()


def test_a_resell_follow_answers_as_the_document_shows(
    client: FlaskClient, shops: tuple[int, int]
) -> None:
    response = post(client, shops)
    assert response.status_code == 202
    body = response.get_json()
    assert_like(body, CREATED | {"data": FOLLOW}, extra={"data": OUR_FOLLOW})
    assert (body["message"], body["sync_status"]) == (CREATED["message"], "pending")
    shown = client.get(f"/api/follows/{body['data']['id']}")
    assert shown.status_code == 200
    extra = {"data": OUR_FOLLOW | {"productErrors"}}
    assert_like(shown.get_json(), {"success": True, "data": FOLLOW}, extra=extra)


def test_a_sync_s_status_answers_as_the_document_shows(
    client: FlaskClient, shops: tuple[int, int], redis: Redis
) -> None:
    follow_id = post(client, shops).get_json()["data"]["id"]
    data = {name: value for name, value in STATUS["data"].items() if name != "results"}
    unfinished = STATUS | {"data": data}
    waiting = status(client, follow_id)
    assert_like(waiting, unfinished, extra={"data": {"rawStatus"}})
    assert waiting["data"]["status"] == "waiting"
    redis.hset(f"rq:job:follow-{follow_id}", mapping={"status": "started", "progress": "45"})
    active = status(client, follow_id)
    assert_like(active, unfinished, extra={"data": {"rawStatus"}})
    assert (active["data"]["status"], active["data"]["progress"]) == ("active", 45)
    redis.hset(f"rq:job:follow-{follow_id}", "status", "queued")
    work()
    completed = status(client, follow_id)
    assert_like(completed, STATUS, extra={"data": {"rawStatus", "message"}})
    assert completed["data"]["results"] == {"synced": 3, "skipped": 0, "errors": 0}


def test_a_failed_sync_says_why(client: FlaskClient, shops: tuple[int, int]) -> None:
    follow_id = post(client, shops).get_json()["data"]["id"]
    current.server().cancel(f"follow-{follow_id}")
    data = status(client, follow_id)["data"]
    assert (data["status"], data["failedReason"]) == ("failed", "canceled")


def test_a_failed_sync_that_redis_let_go_still_says_why(
    client: FlaskClient, shops: tuple[int, int], redis: Redis
) -> None:
    follow_id = post(client, shops).get_json()["data"]["id"]
    current.server().cancel(f"follow-{follow_id}")
    recorder = Recorder(current.server(), db.engine)
    recorder.work()
    recorder.close()
    redis.delete(f"rq:job:follow-{follow_id}")
    data = status(client, follow_id)["data"]
    assert (data["status"], data["failedReason"]) == ("failed", "canceled")


def test_a_repeated_request_makes_one_follow(client: FlaskClient, shops: tuple[int, int]) -> None:
    key = {"Idempotency-Key": '"8e03"'}
    first, second = post(client, shops, **key), post(client, shops, **key)
    assert (first.status_code, second.status_code) == (202, 202)
    assert first.get_json() == second.get_json()
    assert second.headers["Location"] == first.headers["Location"]
    assert second.headers["Idempotent-Replayed"] == "true"
    assert_enqueued("follows.sync_products", count=1)


def test_answers_are_as_their_schemas_describe_them(
    client: FlaskClient, shops: tuple[int, int]
) -> None:
    made = post(client, shops).get_json()
    work()
    answers: list[tuple[type[Schema], Any]] = [(schemas.FollowQueuedSchema, made)]
    for schema, path in (
        (schemas.FollowAnswerSchema, f"/api/follows/{made['data']['id']}"),
        (schemas.FollowPageSchema, "/api/follows"),
        (schemas.ShopPageSchema, "/api/shops"),
        (schemas.ProductPageSchema, f"/api/shops/{shops[0]}/products"),
    ):
        answers.append((schema, client.get(path).get_json()))
    for schema, answer in answers:
        assert answer
        assert schema().validate(answer) == {}, schema
    assert answers[-1][1]["items"][0]["variants"]
