"""`GET /api/v1/jobs/<id>`: what a poller sees of a job, and what others do not."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest
from flask.testing import FlaskClient
from redis import Redis
from sqlalchemy import event

from jobserver import Job, JobServer
from jobserver.http.schemas import JobSchema, job_body
from jobserver.testing import work
from tests.hands import Hand
from tests.integration.web.shop import MAIL, claim, db, send_letter

FIELDS = {
    "id",
    "type",
    "queue",
    "status",
    "rawStatus",
    "progress",
    "attempt",
    "attempts",
    "trace",
    "createdAt",
    "startedAt",
    "endedAt",
    "durationMs",
    "result",
    "error",
    "retryAfter",
    "source",
}


def poll(client: FlaskClient, job: Job, **headers: str) -> Any:
    return client.get(f"/engine/api/v1/jobs/{job.id}", headers=headers)


def body(client: FlaskClient, job: Job) -> dict[str, Any]:
    response = poll(client, job)
    assert response.status_code == 200
    found: dict[str, Any] = response.get_json()
    assert set(found) == FIELDS
    assert JobSchema().validate(found) == {}
    return found


def test_waiting_job_is_shown_whole(admin: FlaskClient) -> None:
    made = send_letter.enqueue(to="ada")
    found = body(admin, made)
    assert datetime.fromisoformat(found.pop("createdAt")).tzinfo is not None
    assert found == {
        "id": "letter-ada",
        "type": "shop.send_letter",
        "queue": "mail",
        "status": "waiting",
        "rawStatus": "queued",
        "progress": {"percent": 0, "message": ""},
        "attempt": 0,
        "attempts": 2,
        "trace": made.run_id,
        "startedAt": None,
        "endedAt": None,
        "durationMs": None,
        "result": None,
        "error": None,
        "retryAfter": 2,
        "source": "redis",
    }


def test_active_job_is_polled_again_in_a_second(admin: FlaskClient, server: JobServer) -> None:
    job = send_letter.enqueue(to="ada")
    taken = claim(server)[0]
    server.broker.progress(job.id, taken.exec, percent=12.7, message="sealing")
    found = body(admin, job)
    assert (found["status"], found["rawStatus"]) == ("active", "started")
    assert found["progress"] == {"percent": 12, "message": "sealing"}
    assert (found["attempt"], found["retryAfter"]) == (1, 1)
    assert found["startedAt"] is not None


def test_delayed_job_is_polled_again_when_it_is_due(admin: FlaskClient, server: JobServer) -> None:
    soon = body(admin, server.enqueue(send_letter, {"to": "ada"}, delay=20))
    later = body(admin, server.enqueue(send_letter, {"to": "grace"}, delay=3600))
    assert soon["status"] == later["status"] == "delayed"
    assert 15 <= soon["retryAfter"] <= 20
    assert later["retryAfter"] == 60


def test_completed_job_has_its_result_and_ends_polling(admin: FlaskClient) -> None:
    job = send_letter.enqueue(to="ada")
    work()
    found = body(admin, job)
    assert (found["status"], found["rawStatus"]) == ("completed", "finished")
    assert found["result"] == {"sent": "ada"}
    assert found["progress"]["percent"] == 100
    assert found["durationMs"] >= 0
    assert found["retryAfter"] is None


def test_job_between_attempts_says_why_it_failed(admin: FlaskClient) -> None:
    job = send_letter.enqueue(to="ada", text="lost")
    work()
    found = body(admin, job)
    assert found["status"] == "delayed"
    assert found["error"] == {"type": "ConnectionError", "message": "the post is on strike"}
    assert found["attempt"] == 1


def test_failed_job_has_its_error_and_no_result(admin: FlaskClient) -> None:
    job = send_letter.enqueue(to="ada", text="illegal")
    work()
    found = body(admin, job)
    assert (found["status"], found["result"]) == ("failed", None)
    assert found["error"]["message"] == "no such street"
    assert found["retryAfter"] is None


def test_canceled_job_is_its_own_status(admin: FlaskClient, server: JobServer) -> None:
    job = send_letter.enqueue(to="ada")
    server.cancel(job.id)
    assert body(admin, job)["status"] == "canceled"


def test_unchanged_job_is_a_304_without_body(admin: FlaskClient) -> None:
    job = send_letter.enqueue(to="ada")
    first = poll(admin, job)
    tag = first.headers["ETag"]
    assert tag.startswith('W/"')
    assert first.headers["Cache-Control"] == "private, no-cache"
    assert {"Authorization", "Prefer"} <= {
        part.strip() for part in first.headers["Vary"].split(",")
    }
    again = poll(admin, job, **{"If-None-Match": tag})
    assert (again.status_code, again.data, again.headers["ETag"]) == (304, b"", tag)
    assert "Content-Type" not in again.headers


def test_changed_job_gets_a_new_etag(admin: FlaskClient) -> None:
    job = send_letter.enqueue(to="ada")
    tag = poll(admin, job).headers["ETag"]
    work()
    changed = poll(admin, job, **{"If-None-Match": tag})
    assert changed.status_code == 200
    assert changed.headers["ETag"] != tag


def test_a_304_costs_one_hmget_and_no_sql(admin: FlaskClient, redis: Redis) -> None:
    job = send_letter.enqueue(to="ada")
    tag = poll(admin, job).headers["ETag"]
    queries: list[str] = []
    event.listen(
        db.engine, "before_cursor_execute", lambda *args: queries.append(args[2]), named=False
    )
    redis.config_resetstat()
    assert poll(admin, job, **{"If-None-Match": tag}).status_code == 304
    stats = redis.info("commandstats")
    sent = {
        name: stat["calls"] for name, stat in stats.items() if name != "cmdstat_config|resetstat"
    }
    assert sent == {"cmdstat_hmget": 1}
    assert queries == []


def test_whatever_changes_in_the_body_changes_the_etag(server: JobServer) -> None:
    job = send_letter.enqueue(to="ada")
    hand = Hand(server.broker, [MAIL])
    seen: list[tuple[str, dict[str, Any]]] = []

    def look() -> None:
        found = server.fetch(job.id)
        assert server.broker.version(job.id) == (found.version, None)
        seen.append((found.version, job_body(found) | {"retryAfter": None}))

    def report(percent: float, message: str) -> None:
        server.broker.progress(job.id, taken.exec, percent=percent, message=message)
        look()

    look()
    taken = hand.take()
    look()
    report(1, "")
    report(1, "sealing")
    report(1.5, "sealing")
    report(2, "sealing")
    hand.end(taken, "release")
    look()
    taken = hand.take()
    look()
    hand.end(taken, "retry", error_message="no stamp")
    look()
    taken = hand.take()
    look()
    hand.end(taken, "retry", error_message="no paper", delay=0)
    look()
    taken = hand.take()
    hand.end(taken, "retry", delay=40)
    look()
    server.cancel(job.id)
    look()
    server.retry(job.id)
    look()
    taken = hand.take()
    look()
    hand.end(taken, "completed", value='{"sent": "ada"}')
    look()
    send_letter.enqueue(to="ada")
    look()
    for version, body in seen:
        for other_version, other_body in seen:
            assert (version == other_version) == (body == other_body)
    assert len({version for version, _ in seen}) == len(seen) - 1  # 1 % and 1.5 % look the same


def test_unknown_job_is_a_404(admin: FlaskClient) -> None:
    response = admin.get("/engine/api/v1/jobs/nobody")
    assert response.status_code == 404
    assert response.content_type == "application/problem+json"
    assert response.get_json()["type"] == "#job-not-found"


def test_customers_poll_their_own_jobs_only(ada: FlaskClient, server: JobServer) -> None:
    mine = server.enqueue(send_letter, {"to": "ada"}, owner="1")
    others = server.enqueue(send_letter, {"to": "grace"}, owner="2")
    nobodys = server.enqueue(send_letter, {"to": "all"})
    assert body(ada, mine)["id"] == mine.id
    hidden = poll(ada, others)
    assert hidden.status_code == poll(ada, nobodys).status_code == 404
    missing = ada.get("/engine/api/v1/jobs/missing")
    assert hidden.get_json()["detail"].replace(others.id, "?") == missing.get_json()[
        "detail"
    ].replace("missing", "?")


@pytest.mark.parametrize(
    "odd",
    ["%00", "%ff%fe", "a" * 5000, "%F0%9F%92%A9", "..%2f..", "%20", "*", "letter-*", "%0d%0aX: y"],
)
def test_odd_ids_are_unknown_jobs(admin: FlaskClient, odd: str) -> None:
    for path in (f"/engine/api/v1/jobs/{odd}", f"/engine/rq/0/data/job/{odd}.json"):
        response = admin.get(path, follow_redirects=True)
        assert response.status_code == 404
