"""The ledger over HTTP: runs are found and shown, and jobs that Redis has let go are answered."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from redis import Redis
from sqlalchemy import event, text

from jobserver import Job, JobServer
from jobserver.broker import keys
from jobserver.http.runs_v1 import RunSchema, RunSummarySchema
from jobserver.http.schemas import AttemptSchema, JobSchema
from jobserver.recorder import Recorder
from tests.hands import Hand
from tests.integration.web.conftest import MakeShop
from tests.integration.web.contract import age
from tests.integration.web.shop import MAIL, TOKEN, charge, db, send_letter

API = "/engine/api/v1"


@pytest.fixture
def hand(server: JobServer) -> Hand:
    return Hand(server.broker, [MAIL])


@pytest.fixture
def recorder(server: JobServer) -> Iterator[Recorder]:
    recorder = Recorder(server, db.engine)
    yield recorder
    recorder.close()


@pytest.fixture
def live(server: JobServer, hand: Hand, recorder: Recorder) -> Any:
    """Returns jobs that have ended, and are on record."""

    def live(to: str, word: Any = "completed", *, value: str = '{"sent":1}', **options: Any) -> Job:
        made = server.enqueue(send_letter, {"to": to}, **options)
        hand.end(hand.take(), word, value=value)
        recorder.work()
        return made

    return live


def forget(redis: Redis, job_id: str) -> None:
    """Let Redis let a job go, as it does when it expires."""
    assert redis.delete(keys.job(job_id)) == 1
    redis.delete(keys.results(job_id))


def statements() -> list[str]:
    """Return a list that grows with every statement sent to the shop's database."""
    seen: list[str] = []
    event.listen(db.engine, "before_cursor_execute", lambda *args: seen.append(args[2]))
    return seen


def test_a_job_that_redis_let_go_is_answered_from_the_ledger(
    admin: FlaskClient, live: Any, redis: Redis
) -> None:
    live("ada")
    before = admin.get(f"{API}/jobs/letter-ada").get_json()
    forget(redis, "letter-ada")
    response = admin.get(f"{API}/jobs/letter-ada")
    assert response.status_code == 200
    found = response.get_json()
    assert JobSchema().validate(found) == {}
    assert found["source"] == "ledger"
    other = {"createdAt", "startedAt", "endedAt", "durationMs", "source"}  # times are to the ms

    def same(body: dict[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in body.items() if name not in other}

    assert same(found) == same(before)
    tag = response.headers["ETag"]
    assert response.headers["Cache-Control"] == "private, no-cache"
    known = admin.get(f"{API}/jobs/letter-ada", headers={"If-None-Match": tag})
    assert (known.status_code, known.data, known.headers["ETag"]) == (304, b"", tag)
    changed = admin.get(f"{API}/jobs/letter-ada", headers={"If-None-Match": 'W/"other"'})
    assert changed.status_code == 200
    result = admin.get(f"{API}/jobs/letter-ada/result").get_json()
    assert result == {"id": "letter-ada", "result": {"sent": 1}}
    (attempt,) = admin.get(f"{API}/jobs/letter-ada/attempts").get_json()["items"]
    assert AttemptSchema().validate(attempt) == {}
    assert (attempt["number"], attempt["outcome"], attempt["error"]) == (1, "completed", None)


def test_polling_reads_no_sql_while_redis_has_the_job(
    admin: FlaskClient, live: Any, redis: Redis
) -> None:
    live("ada")
    seen = statements()
    tag = admin.get(f"{API}/jobs/letter-ada").headers["ETag"]
    admin.get(f"{API}/jobs/letter-ada", headers={"If-None-Match": tag})
    admin.get(f"{API}/jobs/letter-ada?wait=1")
    assert seen == []
    forget(redis, "letter-ada")
    admin.get(f"{API}/jobs/letter-ada")
    assert len([one for one in seen if "jobserver_run" in one]) == 1


def test_long_polls_and_streams_tell_of_a_job_that_is_gone(
    admin: FlaskClient, live: Any, redis: Redis
) -> None:
    live("ada")
    forget(redis, "letter-ada")
    polled = admin.get(f"{API}/jobs/letter-ada?wait=20")  # at once: it has ended
    assert (polled.status_code, polled.get_json()["source"]) == (200, "ledger")
    ticket = admin.post(f"{API}/jobs/letter-ada/ticket").get_json()
    stream = admin.get(ticket["eventsUrl"]).get_data(as_text=True)
    assert stream.index("event: state") < stream.index("event: end")
    assert '"source":"ledger"' in stream


def test_a_result_that_was_too_large_to_keep_is_gone(
    admin: FlaskClient, live: Any, redis: Redis
) -> None:
    live("ada", value=f'"{"x" * 3000}"')
    live("grace", value="null")
    forget(redis, "letter-ada")
    forget(redis, "letter-grace")
    problem = admin.get(f"{API}/jobs/letter-ada/result")
    assert (problem.status_code, problem.get_json()["type"]) == (410, "#gone")
    assert admin.get(f"{API}/jobs/letter-grace/result").get_json()["result"] is None


def test_a_job_that_somebody_removed_is_gone(
    admin: FlaskClient, server: JobServer, recorder: Recorder
) -> None:
    send_letter.enqueue(to="ada")
    server.empty("mail")
    recorder.work()
    for path in ("", "/result", "/attempts", "/events"):
        problem = admin.get(f"{API}/jobs/letter-ada{path}")
        assert (problem.status_code, problem.get_json()["type"]) == (410, "#job-purged"), path
    assert admin.post(f"{API}/jobs/letter-ada/retry").status_code == 410
    send_letter.enqueue(to="ada")
    assert admin.get(f"{API}/jobs/letter-ada").get_json()["status"] == "waiting"


def test_what_retention_removes_stays_known_and_what_an_operator_cleans_does_not(
    admin: FlaskClient, server: JobServer, recorder: Recorder, live: Any, redis: Redis
) -> None:
    live("ada")
    age(redis, "letter-ada", hours=24 * 365)
    assert server.sweep("mail") == 1
    live("grace")
    assert server.clean("mail", older_than=0, states=("completed",)) == 1
    recorder.work()
    found = admin.get(f"{API}/jobs/letter-ada")
    assert (found.status_code, found.get_json()["status"]) == (200, "completed")
    assert admin.get(f"{API}/jobs/letter-grace").status_code == 410
    grace, ada = admin.get(f"{API}/runs?state=completed").get_json()["items"]
    assert (grace["jobId"], ada["jobId"]) == ("letter-grace", "letter-ada")
    assert grace["purgedAt"], "its end stays on record"
    assert ada["purgedAt"] is None


def test_users_see_their_own_jobs_and_runs_only(
    ada: FlaskClient, admin: FlaskClient, shop: Flask, live: Any, redis: Redis, server: JobServer
) -> None:
    grace = shop.test_client()
    grace.environ_base["HTTP_X_CUSTOMER"] = "grace"
    mine, hers = live("ada", owner="1"), live("grace", owner="2")
    purged = server.enqueue(send_letter, {"to": "eve"}, owner="2")
    server.empty("mail")
    forget(redis, mine.id)
    forget(redis, hers.id)
    assert ada.get(f"{API}/jobs/{mine.id}").status_code == 200
    for path in ("", "/result", "/attempts", "/events"):
        assert ada.get(f"{API}/jobs/{hers.id}{path}").status_code == 404
        assert ada.get(f"{API}/jobs/{purged.id}{path}").status_code == 404
    assert [run["jobId"] for run in ada.get(f"{API}/runs").get_json()["items"]] == [mine.id]
    assert ada.get(f"{API}/runs?owner=2").get_json()["items"] == []
    assert ada.get(f"{API}/runs/{mine.run_id}").status_code == 200
    assert ada.get(f"{API}/runs/{hers.run_id}").status_code == 404
    assert ada.post(f"{API}/runs/{hers.run_id}/retry").status_code == 404
    assert ada.post(f"{API}/runs/{mine.run_id}/discard").status_code == 403
    assert ada.get(f"{API}/dead-letters").status_code == 403
    assert grace.get(f"{API}/runs/{hers.run_id}").status_code == 200


def test_runs_are_listed_the_newest_first_and_page_by_page(admin: FlaskClient, live: Any) -> None:
    made = [live("ada"), live("grace", "failed"), live("ada"), live("eve", owner="7")]
    response = admin.get(f"{API}/runs?limit=3&queue=MAIL")
    body = response.get_json()
    for item in body["items"]:
        assert RunSummarySchema().validate(item) == {}
    assert [item["id"] for item in body["items"]] == [job.run_id for job in made[:0:-1]]
    assert body["nextCursor"] in response.headers["Link"]
    rest = admin.get(f"{API}/runs?limit=3&cursor={body['nextCursor']}").get_json()
    assert [item["id"] for item in rest["items"]] == [made[0].run_id]
    assert rest["nextCursor"] is None

    def found(**query: str) -> list[str]:
        items = admin.get(f"{API}/runs", query_string=query).get_json()["items"]
        return [item["jobId"] for item in items]

    assert found(job="letter-ada") == ["letter-ada", "letter-ada"]
    assert found(state="failed") == found(error="NO") == ["letter-grace"]
    assert found(owner="7") == ["letter-eve"]
    assert found(type="shop.send_letter", state="completed", owner="7") == ["letter-eve"]
    assert found(enqueuedFrom="2100-01-01T00:00:00Z") == []
    assert len(found(enqueuedBefore="2100-01-01T00:00:00Z")) == 4
    assert found(job="a\0b") == []
    assert admin.get(f"{API}/runs?queue=none").status_code == 404
    for wrong in ("state=done", "enqueuedFrom=now", "cursor=x", "limit=0"):
        assert admin.get(f"{API}/runs?{wrong}").status_code == 422, wrong


@pytest.mark.parametrize("side", ["enqueuedFrom", "enqueuedBefore"])
@pytest.mark.parametrize("moment", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"])
def test_a_time_that_no_database_knows_is_refused(
    admin: FlaskClient, side: str, moment: str
) -> None:
    for path in ("runs", "dead-letters"):
        answer = admin.get(f"{API}/{path}", query_string={side: moment})
        assert answer.status_code == 422, answer.text
        assert answer.get_json()["errors"][0]["pointer"] == f"#/{side}"


def test_a_run_is_shown_with_its_attempts_and_without_its_secrets(
    admin: FlaskClient, server: JobServer, hand: Hand, recorder: Recorder, redis: Redis
) -> None:
    made = server.enqueue(charge, {"card": "4111-1111", "amount": 3})
    hand.end(hand.take(), "failed")
    recorder.work()
    response = admin.get(f"{API}/runs/{made.run_id}")
    found = response.get_json()
    assert RunSchema().validate(found) == {}
    assert found["payload"] == {"card": "[redacted]", "amount": 3}
    assert (found["status"], found["error"]) == ("failed", {"type": "ValueError", "message": "no"})
    assert len(found["fingerprint"]) == 16
    (attempt,) = found["attemptsMade"]
    assert (attempt["number"], attempt["outcome"]) == (1, "failed")
    assert attempt["error"] == "Traceback: it failed"
    assert "4111" not in response.text
    forget(redis, made.id)
    refused = admin.post(f"{API}/runs/{made.run_id}/retry")
    assert refused.status_code == 422
    assert "must not know" in refused.get_json()["detail"]
    assert admin.get(f"{API}/runs/none").get_json()["type"] == "#run-not-found"


def test_what_is_gone_cannot_be_canceled_but_retried(
    admin: FlaskClient, live: Any, redis: Redis
) -> None:
    live("ada", "failed")
    forget(redis, "letter-ada")
    assert admin.delete(f"{API}/jobs/letter-ada").status_code == 409
    retried = admin.post(f"{API}/jobs/letter-ada/retry")
    assert (retried.status_code, retried.get_json()["id"]) == (202, "letter-ada")
    assert admin.get(f"{API}/jobs/letter-ada").get_json()["source"] == "redis"
    assert admin.post(f"{API}/jobs/letter-ada/retry").status_code == 409


def test_without_tables_or_database_jobs_are_unknown_and_runs_say_why(
    shop: Flask, admin: FlaskClient, server: JobServer
) -> None:
    with db.engine.begin() as connection:
        connection.execute(text("ALTER TABLE jobserver_run RENAME TO elsewhere"))
    assert admin.get(f"{API}/jobs/none").status_code == 404
    assert admin.get(f"{API}/runs").status_code == 500  # it says in the log: flask jobs migrate
    server.db = None
    assert admin.get(f"{API}/jobs/none").status_code == 404
    for path in ("runs", "runs/1", "dead-letters"):
        assert admin.get(f"{API}/{path}").status_code == 501, path


def test_while_the_database_is_away_pollers_are_told_to_come_again(
    make_shop: MakeShop, redis: Redis
) -> None:
    shop = make_shop()
    client = shop.test_client()
    client.environ_base["HTTP_AUTHORIZATION"] = f"Bearer {TOKEN}"
    with shop.app_context():
        send_letter.enqueue(to="ada")
        db.engine.dispose()
        # What a database that is away looks like to SQLite: a file that is none.
        path = db.engine.url.database
        assert path
        with open(path, "wb") as file:
            file.write(b"no database " * 1000)
        assert client.get(f"{API}/jobs/letter-ada").status_code == 200
        unknown = client.get(f"{API}/jobs/none")
        assert (unknown.status_code, unknown.headers["Retry-After"]) == (503, "2")
        known = client.get(f"{API}/jobs/none", headers={"If-None-Match": 'W/"x"'})
        assert known.status_code == 503
        assert client.get(f"{API}/runs").status_code == 503
