"""`/app/job-status`: the document shows paths and what is tracked; the shape is the house's."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from redis import Redis
from sqlalchemy import create_engine

from jobs.records import db
from jobserver import JobServer
from jobserver.broker import keys
from jobserver.ledger import models
from jobserver.recorder import Recorder
from tests.hands import Hand, request_of
from tests.integration.web.contract import assert_like, assert_problem

# "Tracks: Job ID, User ID, Status; timestamps (started, completed, failed); execution details
# (duration, accounts processed, errors)."
JOB = json.loads("""{
  "jobId": "user-7",
  "userId": "7",
  "status": "completed",
  "progress": 100,
  "startedAt": "2025-11-05T12:00:00Z",
  "completedAt": "2025-11-05T12:00:09Z",
  "failedAt": null,
  "durationMs": 9000,
  "accountsProcessed": 3,
  "errors": ["US: no report yet"]
}""")
OURS = {"rawStatus"}
RUNS = count(1)  # ids that sort as they are made, also those of one millisecond
COUNTS = {"waiting": 1, "active": 1, "completed": 1, "failed": 1, "delayed": 1}


@pytest.fixture
def server(seeds: Flask) -> JobServer:
    """The application's."""
    found: JobServer = seeds.extensions["jobserver"]
    return found


def fetching(user_id: str, **more: Any) -> Any:
    return request_of(
        f"user-{user_id}",
        run=f"{next(RUNS):023}",
        queue="user-data",
        type_name="sellers.process_user_data",
        payload=json.dumps({"userId": user_id}),
        **more,
    )


@pytest.fixture
def recorder(server: JobServer) -> Iterator[Recorder]:
    """What writes the ledger; its tables are empty, and so is Valkey."""
    tables = (models.position, models.attempts, models.runs)
    with db.engine.begin() as connection:
        for table in tables:
            connection.execute(table.delete())
    recorder = Recorder(server, db.engine)
    yield recorder
    recorder.close()


def forget(server: JobServer, redis: Redis, *users: str) -> None:
    """Let Redis let the jobs of users go, as it does when they expire."""
    for user_id in users:
        assert redis.delete(keys.job(f"user-{user_id}")) == 1
        redis.delete(keys.results(f"user-{user_id}"))
        for name in ("finished", "failed"):
            redis.zrem(keys.registry(name, "user-data"), f"user-{user_id}")


def complete(server: JobServer, hand: Hand, *users: str) -> None:
    result = json.dumps({"accountsProcessed": 3, "errors": ["US: no report yet"]})
    for user_id in users:
        server.broker.enqueue([fetching(user_id)])
        hand.end(hand.take(), value=result)


def fail(server: JobServer, hand: Hand, *users: str) -> None:
    for user_id in users:
        server.broker.enqueue([fetching(user_id)])
        hand.end(hand.take(), "failed", error_message="quota exceeded")


@pytest.mark.parametrize("path", ["user/7", "job/user-7"])
def test_a_completed_job_is_shown_by_user_and_by_id(
    viewer: FlaskClient, server: JobServer, hand: Hand, path: str
) -> None:
    complete(server, hand, "7")
    response = viewer.get(f"/app/job-status/status/{path}")
    assert response.status_code == 200
    body = response.get_json()
    assert_like(body, {"success": True, "data": JOB}, extra={"data": OURS})
    data = body["data"]
    assert (data["jobId"], data["userId"], data["status"]) == ("user-7", "7", "completed")
    assert (data["progress"], data["rawStatus"]) == (100, "finished")
    assert (data["accountsProcessed"], data["errors"]) == (3, ["US: no report yet"])
    assert data["startedAt"] <= data["completedAt"]


def test_a_failed_job_says_when_and_why(viewer: FlaskClient, server: JobServer, hand: Hand) -> None:
    fail(server, hand, "7")
    data = viewer.get("/app/job-status/status/user/7").get_json()["data"]
    failed = {**JOB, "status": "failed", "completedAt": None, "failedAt": JOB["completedAt"]}
    assert_like(data, failed | {"accountsProcessed": None}, extra={"": OURS})
    assert (data["status"], data["errors"]) == ("failed", ["quota exceeded"])


def test_a_canceled_job_reads_as_failed(viewer: FlaskClient, server: JobServer) -> None:
    server.broker.enqueue([fetching("7")])
    server.cancel("user-7")
    data = viewer.get("/app/job-status/status/user/7").get_json()["data"]
    assert (data["status"], data["rawStatus"]) == ("failed", "canceled")
    assert data["errors"] == ["canceled"]


def test_a_waiting_and_a_running_job_have_no_end(
    viewer: FlaskClient, server: JobServer, hand: Hand
) -> None:
    server.broker.enqueue([fetching("7"), fetching("8", due="+9000")])
    claim = hand.take()
    server.broker.progress(claim.id, claim.exec, percent=40, message="")
    for user_id, status, progress in (("7", "active", 40), ("8", "waiting", 0)):
        data = viewer.get(f"/app/job-status/status/user/{user_id}").get_json()["data"]
        assert (data["status"], data["progress"], data["errors"]) == (status, progress, [])
        assert data["completedAt"] is data["failedAt"] is data["durationMs"] is None
        assert (data["startedAt"] is None) is (status == "waiting")


def test_who_has_no_job_is_not_found(viewer: FlaskClient, server: JobServer) -> None:
    server.broker.enqueue([request_of("stranger", queue="alerts")])
    assert "'7'" in assert_problem(viewer.get("/app/job-status/status/user/7"), 404)["detail"]
    for job_id in ("none", "stranger"):
        assert_problem(viewer.get(f"/app/job-status/status/job/{job_id}"), 404)


def test_recent_lists_what_started_last_first(
    viewer: FlaskClient, server: JobServer, hand: Hand
) -> None:
    complete(server, hand, "1")
    fail(server, hand, "2")
    complete(server, hand, "3")
    server.broker.enqueue([fetching("4"), fetching("5")])
    hand.take()
    response = viewer.get("/app/job-status/recent")
    assert response.status_code == 200
    body = response.get_json()
    assert set(body) == {"success", "data", "count"}
    assert [job["userId"] for job in body["data"]] == ["4", "3", "2", "1"]
    assert (body["success"], body["count"]) == (True, 4)
    assert_like(body["data"][1], JOB, extra={"": OURS})
    limited = viewer.get("/app/job-status/recent?limit=2").get_json()
    assert ([job["userId"] for job in limited["data"]], limited["count"]) == (["4", "3"], 2)


def test_failed_lists_what_failed_last_first(
    viewer: FlaskClient, server: JobServer, hand: Hand
) -> None:
    fail(server, hand, "1", "2", "3")
    complete(server, hand, "4")
    body = viewer.get("/app/job-status/failed?limit=100").get_json()
    assert [job["userId"] for job in body["data"]] == ["3", "2", "1"]
    assert (body["success"], body["count"]) == (True, 3)
    assert viewer.get("/app/job-status/failed?limit=1").get_json()["count"] == 1


def test_recent_lists_as_many_as_are_asked_for(
    viewer: FlaskClient, server: JobServer, hand: Hand
) -> None:
    server.broker.enqueue([fetching(str(number)) for number in range(105)])
    hand.end_many([(claim, "completed") for claim in hand.claim(threads=105)])
    assert viewer.get("/app/job-status/recent").get_json()["count"] == 100
    assert viewer.get("/app/job-status/recent?limit=104").get_json()["count"] == 104


@pytest.mark.parametrize("path", ["recent", "failed"])
def test_lists_may_be_empty(viewer: FlaskClient, path: str) -> None:
    response = viewer.get(f"/app/job-status/{path}")
    assert response.get_json() == {"success": True, "data": [], "count": 0}


def test_queue_statistics_count_jobs_by_state(
    viewer: FlaskClient, server: JobServer, hand: Hand
) -> None:
    complete(server, hand, "1")
    fail(server, hand, "2")
    server.broker.enqueue([fetching("3"), fetching("4"), fetching("5", due="+9000")])
    hand.take()
    response = viewer.get("/app/job-status/queue/stats")
    assert response.status_code == 200
    body = response.get_json()
    assert_like(body, {"success": True, "data": COUNTS}, extra={"data": {"paused"}})
    assert body["data"] == COUNTS | {"paused": 0}


def test_a_job_that_redis_let_go_is_shown_as_before(
    viewer: FlaskClient, server: JobServer, hand: Hand, recorder: Recorder, redis: Redis
) -> None:
    complete(server, hand, "7")
    fail(server, hand, "8")
    recorder.work()
    paths = ("user/7", "job/user-7", "user/8", "job/user-8")
    before = [viewer.get(f"/app/job-status/status/{path}").get_json() for path in paths]
    forget(server, redis, "7", "8")
    after = [viewer.get(f"/app/job-status/status/{path}").get_json() for path in paths]
    for was, now in zip(before, after, strict=True):
        assert_like(now["data"], was["data"])
        told = ("jobId", "userId", "status", "progress", "accountsProcessed", "errors", "rawStatus")
        assert [now["data"][name] for name in told] == [was["data"][name] for name in told]
    assert_like(after[0], {"success": True, "data": JOB}, extra={"data": OURS})


def test_lists_go_on_behind_what_redis_keeps(
    viewer: FlaskClient, server: JobServer, hand: Hand, recorder: Recorder, redis: Redis
) -> None:
    complete(server, hand, "1")
    fail(server, hand, "2", "3")
    recorder.work()
    forget(server, redis, "1", "2", "3")
    complete(server, hand, "4", "2")  # the second has failed before
    fail(server, hand, "5")
    recorder.work()

    def listed(path: str) -> list[tuple[str, str]]:
        data = viewer.get(f"/app/job-status/{path}").get_json()["data"]
        return [(job["userId"], job["status"]) for job in data]

    recent = [("5", "failed"), ("2", "completed"), ("4", "completed")]
    recent += [("3", "failed"), ("2", "failed"), ("1", "completed")]
    assert listed("recent") == recent
    assert listed("recent?limit=4") == recent[:4]
    assert listed("failed") == [("5", "failed"), ("3", "failed")]
    assert listed("failed?limit=1") == [("5", "failed")]


def test_a_removed_job_is_gone(viewer: FlaskClient, server: JobServer, recorder: Recorder) -> None:
    server.broker.enqueue([fetching("7")])
    server.empty("user-data")
    recorder.work()
    assert_problem(viewer.get("/app/job-status/status/user/7"), 410)


def test_without_a_ledger_lists_have_what_redis_keeps(
    viewer: FlaskClient, server: JobServer, hand: Hand, monkeypatch: pytest.MonkeyPatch
) -> None:
    complete(server, hand, "1")
    monkeypatch.setattr(server, "db", create_engine("sqlite:////nowhere/at/all.db"))
    assert viewer.get("/app/job-status/recent").get_json()["count"] == 1
    assert_problem(viewer.get("/app/job-status/status/user/7"), 503)
    monkeypatch.setattr(server, "db", None)
    assert viewer.get("/app/job-status/recent").get_json()["count"] == 1
    assert_problem(viewer.get("/app/job-status/status/user/7"), 404)
