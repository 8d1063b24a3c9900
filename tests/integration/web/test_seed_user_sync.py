"""`/jobs` and `/health` against the examples of the document on user sync."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from redis import Redis

from jobserver import JobServer
from jobserver.broker.entries import Entries
from jobserver.broker.entry import Entry
from tests.hands import Hand, request_of
from tests.integration.web.contract import age, assert_like

HEALTH = json.loads("""{
  "status": "OK",
  "timestamp": "2025-10-09T12:00:00.000Z",
  "uptime": 3600,
  "database": {
    "status": "connected",
    "responseTime": 5
  },
  "jobs": {
    "initialized": true
  }
}""")
STATUS = json.loads("""{
  "success": true,
  "data": {
    "repeatableJobs": [
      {
        "name": "__default__",
        "key": "user-sync:...",
        "every": 1200000,
        "next": 1728475200000
      }
    ],
    "counts": {
      "active": 1,
      "waiting": 0,
      "completed": 45,
      "failed": 2
    },
    "activeJobs": [
      {
        "id": "123",
        "data": { "syncType": "incremental" },
        "progress": 75
      }
    ]
  }
}""")
TRIGGERED = json.loads("""{
  "success": true,
  "message": "User sync (incremental) triggered successfully",
  "timestamp": "2025-10-09T12:00:00.000Z"
}""")
PAUSED = {"success": True, "message": "User sync jobs paused"}
RESUMED = {"success": True, "message": "User sync jobs resumed"}
CLEANED_UP = {"success": True, "message": "Old jobs cleaned up (grace period: 24h)"}


@pytest.fixture
def server(seeds: Flask) -> JobServer:
    """The application's."""
    found: JobServer = seeds.extensions["jobserver"]
    return found


def sync(job_id: str, **more: Any) -> Any:
    payload = '{"syncType":"incremental"}'
    return request_of(job_id, queue="user-sync", type_name="users.sync", payload=payload, **more)


def fail(server: JobServer, hand: Hand, *ids: str) -> None:
    for job_id in ids:
        server.broker.enqueue([sync(job_id)])
        hand.end(hand.take(), "failed")


def test_health_answers_as_the_document_shows(seeds: Flask) -> None:
    response = seeds.test_client().get("/health")
    assert response.status_code == 200
    assert_like(response.get_json(), HEALTH, extra={"": {"redis"}})
    assert response.get_json()["status"] == "OK"


def test_status_shows_schedule_counts_and_running_jobs(
    viewer: FlaskClient, server: JobServer, hand: Hand
) -> None:
    Entries(server.broker).declare(
        [
            Entry(id="user-sync", type="users.sync", seconds=1200, payload={}),
            Entry(id="other", type="follows.resync_follows", seconds=60, payload={}),
        ],
        prune=True,
    )
    fail(server, hand, "bad")
    server.broker.enqueue([sync("123"), sync("124")])
    claim = hand.take()
    server.broker.progress(claim.id, claim.exec, percent=75, message="")
    response = viewer.get("/jobs/status")
    assert response.status_code == 200
    body = response.get_json()
    assert_like(body, STATUS, extra={"data.counts": {"delayed", "paused"}})
    (entry,) = body["data"]["repeatableJobs"]
    assert (entry["name"], entry["key"], entry["every"]) == (
        *("__default__", "user-sync:user-sync"),
        1_200_000,
    )
    assert 0 < entry["next"] / 1000 - time.time() <= 1200
    assert entry["next"] % 1_200_000 == 0
    assert body["data"]["activeJobs"] == [
        {"id": "123", "data": {"syncType": "incremental"}, "progress": 75}
    ]
    assert body["data"]["counts"] == {
        **{"active": 1, "waiting": 1, "completed": 0, "failed": 1},
        **{"delayed": 0, "paused": 0},
    }


def test_status_without_jobs_shows_empty_lists(viewer: FlaskClient) -> None:
    data = viewer.get("/jobs/status").get_json()["data"]
    assert (data["repeatableJobs"], data["activeJobs"]) == ([], [])


def test_status_shows_a_sync_by_cron_and_a_paused_one(operator: FlaskClient) -> None:
    order = {"type": "users.sync", "payload": {"syncType": "full"}, "cron": "30 2 * * *"}
    url = "/api/v1/schedules"
    assert operator.put(f"{url}/nightly", json=order).status_code == 201
    assert operator.put(f"{url}/weekly", json=order | {"paused": True}).status_code == 201
    nightly, weekly = operator.get("/jobs/status").get_json()["data"]["repeatableJobs"]
    assert (nightly["every"], nightly["cron"], weekly["next"]) == (None, "30 2 * * *", None)
    assert 0 < nightly["next"] / 1000 - time.time() <= 86_400


@pytest.mark.parametrize(
    ("body", "sync_type"),
    [({"syncType": "full"}, "full"), ({"syncType": "incremental"}, "incremental"), (None, None)],
)
def test_a_trigger_queues_a_sync(
    operator: FlaskClient, server: JobServer, body: Any, sync_type: str | None
) -> None:
    response = operator.post("/jobs/trigger/user-sync", json=body)
    assert response.status_code == 202
    answer = response.get_json()
    assert_like(answer, TRIGGERED, extra={"": {"jobId"}})
    expected = sync_type or "incremental"
    assert answer["message"] == f"User sync ({expected}) triggered successfully"
    made = server.fetch(answer["jobId"])
    assert (made.type, made.queue, made.payload) == (
        *("users.sync", "user-sync"),
        {"syncType": expected},
    )


def test_pause_and_resume_answer_to_the_letter(operator: FlaskClient, server: JobServer) -> None:
    for path, expected, paused in (("pause", PAUSED, True), ("resume", RESUMED, False)):
        response = operator.post(f"/jobs/{path}")
        assert (response.status_code, response.get_json()) == (200, expected)
        assert (server.statistics()["user-sync"].pause is not None) is paused


@pytest.mark.parametrize(
    ("body", "hours"), [({}, "24"), (None, "24"), ({"gracePeriodHours": 48}, "48")]
)
def test_cleanup_takes_what_ended_before_the_grace_period(
    ask_as: Any, server: JobServer, hand: Hand, redis: Redis, body: Any, hours: str
) -> None:
    fail(server, hand, "old", "new")
    age(redis, "old", hours=int(hours) + 0.1)
    age(redis, "new", hours=int(hours) - 0.1)
    response = ask_as("admin").post("/jobs/cleanup", json=body)
    assert response.status_code == 200
    answer = response.get_json()
    assert_like(answer, CLEANED_UP, extra={"": {"removed"}})
    assert answer["message"] == f"Old jobs cleaned up (grace period: {hours}h)"
    assert answer["removed"] == 1
    assert server.broker.fetch_many(["old"]) == [None]
    assert server.fetch("new").status == "failed"
