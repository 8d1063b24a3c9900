"""`/api/v1/queues` against the examples of the document on job queues."""

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

STATS = json.loads("""{
  "WHATSAPP": {
    "name": "whatsapp-messages",
    "counts": {
      "waiting": 5,
      "active": 2,
      "completed": 1250,
      "failed": 3,
      "delayed": 0
    },
    "isPaused": false
  }
}""")
# The document shows no answer of the others; this is the house's.
DONE = {"success": True, "message": "…"}
FAILED = {"id": "123", "data": {}, "failedReason": "Connection timeout", "attemptsMade": 3}
OUR_FAILED = {"name", "timestamp", "finishedOn", "rawStatus"}

KEYS = {
    *("PRODUCT_SYNC", "USER_DATA", "USER_SYNC", "WHATSAPP", "CREDIT_SCORE", "ORDER_ROUTING"),
    *("PAYMENT_REMINDERS", "REPORT_GENERATION", "ORDER_PROCESSING", "DATA_SYNC"),
    *("INSIGHTS_GENERATION", "WEBHOOK_PROCESSING", "EMAIL_SENDING", "ALERTS"),
    *("PROJECT_SYNC", "ISSUE_SYNC"),
}


@pytest.fixture
def server(seeds: Flask) -> JobServer:
    """The application's."""
    found: JobServer = seeds.extensions["jobserver"]
    return found


def message(job_id: str, **more: Any) -> Any:
    return request_of(
        job_id, queue="whatsapp", type_name="whatsapp.message", payload='{"to":"+977"}', **more
    )


def fail(server: JobServer, hand: Hand, *ids: str) -> None:
    for job_id in ids:
        server.broker.enqueue([message(job_id)])
        hand.end(hand.take(), "failed", error_message="Connection timeout")


def test_statistics_are_a_bare_map_by_key(
    viewer: FlaskClient, server: JobServer, hand: Hand
) -> None:
    server.broker.enqueue([message("a"), message("b"), message("c"), message("d", due="+9000")])
    hand.end(hand.take())
    hand.take()
    response = viewer.get("/api/v1/queues/stats")
    assert response.status_code == 200
    body = response.get_json()
    assert set(body) == KEYS
    for queue in body.values():
        assert_like(queue, STATS["WHATSAPP"], extra={"counts": {"paused"}})
    assert body["WHATSAPP"] == {
        "name": "whatsapp-messages",
        "counts": {
            **{"waiting": 1, "active": 1, "completed": 1, "failed": 0, "delayed": 1},
            "paused": 0,
        },
        "isPaused": False,
    }
    server.pause("whatsapp")
    paused = viewer.get("/api/v1/queues/stats").get_json()["WHATSAPP"]
    assert paused["isPaused"] is True
    assert (paused["counts"]["waiting"], paused["counts"]["paused"]) == (0, 1)


def test_completed_is_cumulative_and_failed_is_what_can_be_retried(
    viewer: FlaskClient, operator: FlaskClient, server: JobServer, hand: Hand
) -> None:
    server.broker.enqueue([message(f"job-{n}") for n in range(105)])
    for claim in hand.claim(threads=105):
        hand.end(claim)
    fail(server, hand, "bad", "worse")

    def counts() -> Any:
        return viewer.get("/api/v1/queues/stats").get_json()["WHATSAPP"]["counts"]

    assert server.counts()["whatsapp"]["completed"] == 100  # as many as are kept
    assert (counts()["completed"], counts()["failed"]) == (105, 2)
    operator.post("/api/v1/queues/whatsapp/jobs/bad/retry")
    server.clean("whatsapp", older_than=0, states=["completed"])
    assert (counts()["completed"], counts()["failed"]) == (105, 1)


def test_failed_jobs_are_listed_by_inclusive_ranks_and_by_limit(
    viewer: FlaskClient, server: JobServer, hand: Hand
) -> None:
    fail(server, hand, *(f"job-{n}" for n in range(12)))
    response = viewer.get("/api/v1/queues/WHATSAPP/failed?start=0&end=10")
    assert response.status_code == 200
    body = response.get_json()
    assert_like(body, [{**FAILED, "data": {"to": ""}}], extra={"[]": OUR_FAILED})
    assert [job["id"] for job in body] == [f"job-{n}" for n in range(11, 0, -1)]
    assert body[0]["data"] == {"to": "+977"}
    assert body[0]["failedReason"] == "Connection timeout"
    assert (body[0]["attemptsMade"], body[0]["name"]) == (1, "whatsapp.message")
    assert body[0]["finishedOn"] >= body[0]["timestamp"] > 1_600_000_000_000

    def ids(query: str) -> list[str]:
        found = viewer.get(f"/api/v1/queues/whatsapp/failed{query}").get_json()
        return [job["id"] for job in found]

    assert len(ids("")) == 12
    assert ids("?limit=2") == ids("?start=0&end=1") == ["job-11", "job-10"]
    assert ids("?start=10&limit=200") == ids("?start=10&end=11") == ["job-1", "job-0"]
    assert ids("?start=3&end=3&limit=5") == ["job-8"]
    assert ids("?start=12") == []


def test_a_failed_job_is_retried_once(operator: FlaskClient, server: JobServer, hand: Hand) -> None:
    fail(server, hand, "job-1")
    response = operator.post("/api/v1/queues/WHATSAPP/jobs/job-1/retry")
    assert response.status_code == 202
    assert_like(response.get_json(), DONE, extra={"": {"jobId", "retried"}})
    assert (response.get_json()["jobId"], response.get_json()["retried"]) == ("job-1", 1)
    assert server.fetch("job-1").status == "waiting"
    assert_problem(operator.post("/api/v1/queues/WHATSAPP/jobs/job-1/retry"), 409)


def test_a_job_of_another_queue_is_not_found_in_this_one(
    operator: FlaskClient, server: JobServer, hand: Hand
) -> None:
    fail(server, hand, "job-1")
    assert_problem(operator.post("/api/v1/queues/ALERTS/jobs/job-1/retry"), 404)
    assert_problem(operator.post("/api/v1/queues/WHATSAPP/jobs/none/retry"), 404)
    assert server.fetch("job-1").status == "failed"


@pytest.mark.parametrize("body", [{"gracePeriodHours": 24}, {}, None])
def test_clean_takes_what_ended_before_the_grace_period(
    ask_as: Any, server: JobServer, hand: Hand, redis: Redis, body: Any
) -> None:
    fail(server, hand, "old", "new")
    server.broker.enqueue([message("done"), message("off")])
    hand.end(hand.take())
    server.cancel("off")
    for job_id in ("old", "done", "off"):
        age(redis, job_id, hours=24.1)
    age(redis, "new", hours=23.9)
    response = ask_as("admin").post("/api/v1/queues/WHATSAPP/clean", json=body)
    assert response.status_code == 200
    assert_like(response.get_json(), DONE, extra={"": {"removed"}})
    assert response.get_json()["removed"] == 3
    assert "grace period: 24h" in response.get_json()["message"]
    left = server.broker.fetch_many(["old", "new", "done", "off"])
    assert [job and job.id for job in left] == [None, "new", None, None]


def test_a_grace_period_may_be_a_part_of_an_hour(
    ask_as: Any, server: JobServer, hand: Hand
) -> None:
    fail(server, hand, "job-1")
    client = ask_as("admin")
    kept = client.post("/api/v1/queues/WHATSAPP/clean", json={"gracePeriodHours": 0.5})
    assert kept.get_json()["removed"] == 0
    gone = client.post("/api/v1/queues/WHATSAPP/clean", json={"gracePeriodHours": 0})
    assert gone.get_json()["removed"] == 1


def test_pause_and_resume_say_what_they_did(operator: FlaskClient, server: JobServer) -> None:
    for _ in range(2):  # what is paused can be paused
        response = operator.post("/api/v1/queues/WHATSAPP/pause")
        assert response.status_code == 200
        assert response.get_json() == {
            "success": True,
            "message": "Queue whatsapp-messages paused",
        }
        assert server.statistics()["whatsapp"].pause is not None
    for _ in range(2):
        response = operator.post("/api/v1/queues/WHATSAPP/resume")
        assert response.status_code == 200
        assert response.get_json() == {
            "success": True,
            "message": "Queue whatsapp-messages resumed",
        }
        assert server.statistics()["whatsapp"].pause is None


def test_a_pause_may_have_an_end_and_a_reason(operator: FlaskClient, server: JobServer) -> None:
    body = {"until": "2999-01-01T00:00:00+01:00", "reason": "stock-taking"}
    assert operator.post("/api/v1/queues/alerts/pause", json=body).status_code == 200
    pause = server.statistics()["alerts"].pause
    assert pause is not None
    assert (pause.until, pause.reason) == (32472140400, "stock-taking")
    late = operator.post("/api/v1/queues/alerts/pause", json={"until": "2999-01-01T00:00:00"})
    assert assert_problem(late, 422)["errors"][0]["pointer"] == "#/until"


@pytest.mark.parametrize("name", ["WHATSAPP", "whatsapp", "WhatsApp-Messages", "whatsapp-MESSAGES"])
def test_a_queue_answers_to_key_name_and_alias_in_any_case(
    ask_as: Any, server: JobServer, hand: Hand, name: str
) -> None:
    admin = ask_as("admin")
    fail(server, hand, "job-1")
    assert [job["id"] for job in admin.get(f"/api/v1/queues/{name}/failed").get_json()] == ["job-1"]
    assert admin.post(f"/api/v1/queues/{name}/pause").status_code == 200
    assert admin.post(f"/api/v1/queues/{name}/resume").status_code == 200
    assert admin.post(f"/api/v1/queues/{name}/jobs/job-1/retry").status_code == 202
    assert admin.post(f"/api/v1/queues/{name}/clean").status_code == 200
