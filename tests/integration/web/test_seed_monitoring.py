"""`/api/jobs` against the examples of the document on background jobs."""

from __future__ import annotations

import json
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from redis import Redis

from jobserver import JobServer
from tests.hands import Hand, request_of
from tests.integration.web.contract import age, assert_like, assert_problem

MONITORING = json.loads("""{
  "success": true,
  "data": {
    "queues": {
      "data-sync": {
        "waiting": 5,
        "active": 2,
        "completed": 1234,
        "failed": 3,
        "delayed": 1,
        "paused": 0
      }
    },
    "totals": {
      "waiting": 10,
      "active": 5,
      "completed": 5000,
      "failed": 10,
      "delayed": 2,
      "paused": 0
    }
  }
}""")
QUEUE = json.loads("""{
  "success": true,
  "data": {
    "queueName": "data-sync",
    "stats": {},
    "failedJobs": [
      {
        "id": "123",
        "data": {},
        "failedReason": "Connection timeout",
        "attemptsMade": 3
      }
    ]
  }
}""")
QUEUE["data"]["stats"] = MONITORING["data"]["queues"]["data-sync"]  # "{ ... }" in the document
QUEUE["data"]["failedJobs"][0]["data"] = {"integrationId": "123"}
OUR_FAILED = {"name", "timestamp", "finishedOn", "rawStatus"}
# The document shows no answer of the others; this is the house's.
DONE = {"success": True, "message": "…"}

NAMES = {
    *("data-sync", "insights-generation", "webhook-processing", "report-generation"),
    *("email-sending", "alerts"),
}


@pytest.fixture
def server(seeds: Flask) -> JobServer:
    """The application's."""
    found: JobServer = seeds.extensions["jobserver"]
    return found


def sync(job_id: str, **more: Any) -> Any:
    payload = '{"integrationId":"123"}'
    return request_of(
        job_id,
        **{"queue": "data-sync", "type_name": "integrations.sync_data", "payload": payload} | more,
    )


def fail(server: JobServer, hand: Hand, *ids: str, **more: Any) -> None:
    for job_id in ids:
        server.broker.enqueue([sync(job_id, **more)])
        hand.end(hand.take(), "failed", error_message="Connection timeout")


def test_monitoring_counts_all_queues_by_name_and_in_all(
    viewer: FlaskClient, server: JobServer, hand: Hand
) -> None:
    fail(server, hand, "a")
    server.broker.enqueue([sync("b"), sync("c", due="+9000"), sync("d", queue="alerts:high")])
    server.pause("alerts")
    response = viewer.get("/api/jobs/monitoring")
    assert response.status_code == 200
    body = response.get_json()
    queues = body["data"]["queues"]
    others = set(queues) - {"data-sync"}
    assert_like(body, MONITORING, extra={"data.queues": others})
    assert set(queues) > NAMES
    assert len(queues) == 16
    none = dict.fromkeys(MONITORING["data"]["totals"], 0)
    assert queues["data-sync"] == none | {"waiting": 1, "failed": 1, "delayed": 1}
    assert queues["alerts"] == none | {"paused": 1}
    assert queues["email-sending"] == none
    assert body["data"]["totals"] == none | {"waiting": 1, "failed": 1, "delayed": 1, "paused": 1}


def test_one_queue_is_shown_with_its_failed_jobs(
    viewer: FlaskClient, server: JobServer, hand: Hand
) -> None:
    fail(server, hand, "a", "b")
    response = viewer.get("/api/jobs/data-sync")
    assert response.status_code == 200
    body = response.get_json()
    assert_like(body, QUEUE, extra={"data.failedJobs[]": OUR_FAILED})
    assert body["data"]["stats"]["failed"] == 2
    assert [job["id"] for job in body["data"]["failedJobs"]] == ["b", "a"]
    assert body["data"]["failedJobs"][0]["failedReason"] == "Connection timeout"
    assert body["data"]["failedJobs"][0]["attemptsMade"] == 1


def test_a_queue_is_shown_under_the_name_of_the_document(viewer: FlaskClient) -> None:
    for name in ("email", "EMAIL_SENDING", "Email-Sending"):
        data = viewer.get(f"/api/jobs/{name}").get_json()["data"]
        assert (data["queueName"], data["failedJobs"]) == ("email-sending", [])


def test_one_failed_job_is_retried(operator: FlaskClient, server: JobServer, hand: Hand) -> None:
    fail(server, hand, "a", "b")
    body = {"queueName": "DATA_SYNC", "jobId": "a"}
    response = operator.post("/api/jobs/monitoring/retry", json=body)
    assert response.status_code == 202
    assert_like(response.get_json(), DONE, extra={"": {"retried", "jobId"}})
    assert (response.get_json()["retried"], response.get_json()["jobId"]) == (1, "a")
    assert (server.fetch("a").status, server.fetch("b").status) == ("waiting", "failed")
    assert_problem(operator.post("/api/jobs/monitoring/retry", json=body), 409)
    elsewhere = {"queueName": "alerts", "jobId": "b"}
    assert_problem(operator.post("/api/jobs/monitoring/retry", json=elsewhere), 404)


def test_without_an_id_all_failed_jobs_of_the_queue_are_retried(
    operator: FlaskClient, server: JobServer, hand: Hand
) -> None:
    fail(server, hand, "a", "b", "c")
    fail(server, hand, "other", queue="alerts")
    response = operator.post("/api/jobs/monitoring/retry", json={"queueName": "data-sync"})
    assert response.status_code == 202
    assert_like(response.get_json(), DONE, extra={"": {"retried"}})
    assert response.get_json()["retried"] == 3
    assert {server.fetch(job_id).status for job_id in ("a", "b", "c")} == {"waiting"}
    assert server.fetch("other").status == "failed"
    again = operator.post("/api/jobs/monitoring/retry", json={"queueName": "data-sync"})
    assert (again.status_code, again.get_json()["retried"]) == (202, 0)


def test_a_queue_is_paused_and_resumed_by_its_action(
    operator: FlaskClient, server: JobServer
) -> None:
    for action, word, paused in (("pause", "paused", True), ("resume", "resumed", False)):
        response = operator.post(f"/api/jobs/email-sending?action={action}")
        assert response.status_code == 200
        assert response.get_json() == {"success": True, "message": f"Queue email-sending {word}"}
        assert (server.statistics()["email"].pause is not None) is paused


def test_emptying_removes_what_waits(ask_as: Any, server: JobServer, hand: Hand) -> None:
    fail(server, hand, "bad")
    server.broker.enqueue([sync("a"), sync("b", due="+9000")])
    response = ask_as("admin").post("/api/jobs/data-sync?action=empty")
    assert response.status_code == 200
    assert_like(response.get_json(), DONE, extra={"": {"removed"}})
    assert response.get_json()["removed"] == 2
    left = server.broker.fetch_many(["bad", "a", "b"])
    assert [job and job.id for job in left] == ["bad", None, None]


def test_cleaning_keeps_to_the_queue_s_retention(
    ask_as: Any, server: JobServer, hand: Hand, redis: Redis
) -> None:
    fail(server, hand, "bad-1", "bad-8")
    server.broker.enqueue([sync("done-0")])
    hand.end(hand.take())
    server.broker.enqueue([sync("done-1")])
    hand.end(hand.take())
    for job_id in ("bad-1", "bad-8", "done-0", "done-1"):
        age(redis, job_id, hours=int(job_id[-1]) * 24 + 0.1)
    redis.zadd("rq:failed:data-sync", {"bad-8": 1})  # by when each expires
    redis.zadd("rq:finished:data-sync", {"done-1": 1})
    response = ask_as("admin").post("/api/jobs/data-sync?action=clean")
    assert response.get_json()["removed"] == 2
    left = server.broker.fetch_many(["bad-1", "bad-8", "done-0", "done-1"])
    assert [job and job.id for job in left] == ["bad-1", None, "done-0", None]
