"""Dead letters over HTTP and in the shell: grouped, retried, edited, discarded; and who did it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from redis import Redis

from jobserver import Job, JobServer
from jobserver.http.dead_letters_v1 import GroupSchema, TallySchema
from jobserver.ledger import actions
from jobserver.ledger.fingerprint import fingerprint
from jobserver.recorder import Recorder
from jobserver.testing import work
from tests.hands import Hand
from tests.integration.web.shop import MAIL, db, send_letter
from tests.integration.web.test_runs_api import forget

API = "/engine/api/v1"
FRAME = '  File "/elsewhere/web/shop.py", line 1, in send_letter\n'


@pytest.fixture
def hand(server: JobServer) -> Hand:
    return Hand(server.broker, [MAIL])


@pytest.fixture
def recorder(server: JobServer) -> Iterator[Recorder]:
    recorder = Recorder(server, db.engine)
    yield recorder
    recorder.close()


@pytest.fixture
def fail(server: JobServer, hand: Hand, recorder: Recorder) -> Any:
    """Returns failed jobs that are on record."""

    def fail(to: str, message: str = "no street 7", **options: Any) -> Job:
        made = server.enqueue(send_letter, {"to": to}, **options)
        (claim,) = [claim for claim in hand.claim(processes=50) if claim.id == made.id]
        hand.end(claim, "failed", error_message=message)
        recorder.work()
        return made

    return fail


def groups(client: FlaskClient, **query: str) -> list[tuple[int, str]]:
    items = client.get(f"{API}/dead-letters", query_string=query).get_json()["items"]
    return [(item["count"], item["example"]["jobId"]) for item in items]


def test_failures_of_one_cause_are_a_group(admin: FlaskClient, fail: Any) -> None:
    fail("ada", "no street 7")
    fail("eve", "timed out")
    last = fail("grace", "no street 12")
    response = admin.get(f"{API}/dead-letters?limit=1")
    body = response.get_json()
    (group,) = body["items"]
    assert GroupSchema().validate(group) == {}
    assert (group["count"], group["example"]["id"]) == (2, last.run_id)
    assert group["firstSeen"] < group["lastSeen"]
    assert body["nextCursor"] in response.headers["Link"]
    rest = admin.get(f"{API}/dead-letters?limit=1&cursor={body['nextCursor']}").get_json()
    assert [item["example"]["jobId"] for item in rest["items"]] == ["letter-eve"]
    assert rest["nextCursor"] is None
    assert groups(admin, error="TIMED") == [(1, "letter-eve")]
    assert groups(admin, type="none") == []
    listed = admin.get(f"{API}/dead-letters/{group['fingerprint']}?limit=1").get_json()
    assert [item["jobId"] for item in listed["items"]] == ["letter-grace"]
    cursor = listed["nextCursor"]
    listed = admin.get(f"{API}/dead-letters/{group['fingerprint']}?cursor={cursor}").get_json()
    assert [item["jobId"] for item in listed["items"]] == ["letter-ada"]
    assert admin.get(f"{API}/dead-letters/none").get_json()["items"] == []
    assert admin.get(f"{API}/dead-letters/none?cursor={cursor}").status_code == 422


def test_runs_that_raise_at_the_same_place_are_a_group(
    admin: FlaskClient, server: JobServer, recorder: Recorder
) -> None:
    for to in ("ada", "eve"):
        server.enqueue(send_letter, {"to": to, "text": "lost"}, attempts=1)
    server.enqueue(send_letter, {"to": "grace", "text": "illegal"})
    work()
    recorder.work()
    items = admin.get(f"{API}/dead-letters").get_json()["items"]
    assert {(item["count"], item["fingerprint"]) for item in items} == {
        (2, fingerprint(send_letter.name, "ConnectionError", "the post is on strike", FRAME)),
        (1, fingerprint(send_letter.name, "Discard", "no such street", FRAME)),
    }


def test_a_group_is_retried_once_however_often_it_is_asked(
    admin: FlaskClient, fail: Any, redis: Redis, recorder: Recorder, server: JobServer
) -> None:
    fail("ada")
    fail("eve", "timed out")
    gone = fail("grace", owner="7")
    forget(redis, gone.id)
    (group, _) = admin.get(f"{API}/dead-letters").get_json()["items"]
    order = {"fingerprint": group["fingerprint"]}
    once = {"Idempotency-Key": "retry-1"}
    response = admin.post(f"{API}/dead-letters/retry", json=order, headers=once)
    assert response.status_code == 202
    tally = response.get_json()
    assert TallySchema().validate(tally) == {}
    assert tally == {
        **{"retried": 1, "enqueued": 1, "skipped": 0, "refused": 0, "refusals": []},
        "more": False,
    }
    again = admin.post(f"{API}/dead-letters/retry", json=order, headers=once)
    assert (again.get_json(), again.headers["Idempotent-Replayed"]) == (tally, "true")
    assert admin.post(f"{API}/dead-letters/retry", json=order).get_json()["skipped"] == 2
    recorder.work()
    assert groups(admin) == [(1, "letter-eve")]
    assert server.fetch("letter-grace").owner == "7"
    latest = actions.find(db)[-1]
    assert (latest.action, latest.target, latest.principal) == (
        *("dead-letters.retry", f"fingerprint={group['fingerprint']}"),
        "admin",
    )
    assert latest.detail == "1 retried, 1 enqueued, 0 skipped, 0 refused"


def test_one_run_is_retried_with_another_payload_that_its_schema_accepts(
    admin: FlaskClient, fail: Any, recorder: Recorder, server: JobServer
) -> None:
    made = fail("ada")
    path = f"{API}/runs/{made.run_id}/retry"
    refused = admin.post(path, json={"payload": {"text": 7}})
    assert refused.status_code == 422
    pointers = {error["pointer"] for error in refused.get_json()["errors"]}
    assert pointers == {"#/payload/to", "#/payload/text"}
    assert server.fetch("letter-ada").run_id == made.run_id
    accepted = admin.post(path, json={"payload": {"to": "eve", "text": "hi"}})
    assert (accepted.status_code, accepted.get_json()["id"]) == (202, "letter-eve")
    assert server.fetch("letter-eve").payload == {"to": "eve", "text": "hi"}
    recorder.work()
    assert groups(admin) == []
    assert [(a.action, a.target, a.outcome) for a in actions.find(db)] == [
        ("run.retry", made.run_id, "done"),
        ("run.retry", made.run_id, "failed"),
    ]
    other = fail("grace")
    assert admin.post(f"{API}/runs/{other.run_id}/retry").status_code == 202
    assert admin.post(f"{API}/runs/{other.run_id}/retry").status_code == 409
    assert admin.post(f"{API}/runs/none/retry").status_code == 404


def test_a_user_retries_own_runs_but_edits_none(
    ada: FlaskClient, fail: Any, server: JobServer
) -> None:
    made = fail("ada", owner="1")
    path = f"{API}/runs/{made.run_id}/retry"
    assert ada.post(path, json={"payload": {"to": "eve"}}).status_code == 403
    assert ada.post(path).status_code == 202
    assert server.fetch("letter-ada").status == "waiting"


def test_discarded_ones_stay_on_record(admin: FlaskClient, fail: Any) -> None:
    made = [fail(name) for name in ("ada", "eve", "grace")]
    one = admin.post(f"{API}/runs/{made[0].run_id}/discard")
    assert (one.status_code, one.get_json()) == (200, {"discarded": 1, "more": False})
    assert admin.post(f"{API}/runs/{made[0].run_id}/discard").get_json()["discarded"] == 0
    assert groups(admin) == [(2, "letter-grace")]
    rest = admin.post(f"{API}/dead-letters/discard", json={"queue": "MAIL"})
    assert rest.get_json() == {"discarded": 2, "more": False}
    assert groups(admin) == []
    found = admin.get(f"{API}/runs/{made[0].run_id}").get_json()
    assert found["status"] == "failed" and found["settledAt"]
    assert actions.find(db)[0].detail == "2 discarded"


@pytest.mark.parametrize("verb", ["retry", "discard"])
def test_what_is_meant_must_be_said(admin: FlaskClient, fail: Any, verb: str) -> None:
    fail("ada")
    path = f"{API}/dead-letters/{verb}"
    for wrong in ({}, {"all": False}, {"all": True, "type": "x"}, {"sort": 1}):
        assert admin.post(path, json=wrong).status_code == 422, wrong
    assert admin.post(path, json={"queue": "none"}).status_code == 404
    assert groups(admin) == [(1, "letter-ada")]
    body = admin.post(path, json={"all": True}).get_json()
    assert body.get("retried", body.get("discarded")) == 1


@pytest.fixture
def shell(shop: Flask) -> Any:
    """Runs `flask jobs dead-letters …` and returns its exit code and output."""

    def shell(*args: str) -> tuple[int, str]:
        result = shop.test_cli_runner().invoke(args=["jobs", "dead-letters", *args])
        return result.exit_code, result.output

    return shell


def test_the_shell_lists_retries_and_discards(
    shell: Any, fail: Any, recorder: Recorder, redis: Redis, server: JobServer
) -> None:
    assert shell("list") == (0, "There are no dead letters.\n")
    ada, eve, grace = fail("ada"), fail("eve", "timed out"), fail("grace")
    _, listed = shell("list")
    (line,) = [line for line in listed.splitlines() if "no street" in line]
    fingerprint, count, kind, *_ = line.split()
    assert (count, kind) == ("2", "shop.send_letter")
    _, text = shell("list", "--json", "--error", "timed")
    assert json.loads(text)[0]["example"]["job"] == "letter-eve"
    _, shown = shell("show", fingerprint)
    assert [line.split()[0] for line in shown.splitlines()[1:]] == [grace.run_id, ada.run_id]
    forget(redis, ada.id)
    assert shell("retry", fingerprint) == (0, "1 retried, 1 enqueued, 0 skipped, 0 refused\n")
    assert shell("retry", "--run", eve.run_id, "--payload", '{"to": "eve", "text": "hi"}') == (
        0,
        "letter-eve waits in mail\n",
    )
    assert server.fetch("letter-eve").payload == {"to": "eve", "text": "hi"}
    recorder.work()
    assert shell("show", fingerprint)[1].startswith("There are no dead letters")
    again = fail("dora")
    assert shell("discard", "--run", again.run_id) == (0, "1 discarded\n")
    fail("emil")
    assert shell("discard", "--all", "--queue", "mail")[0] == 2
    assert shell("discard", "--queue", "mail") == (0, "1 discarded\n")
    assert shell("list") == (0, "There are no dead letters.\n")
    done = [(action.principal[:6], action.action, action.outcome) for action in actions.find(db)]
    assert done == [
        ("shell:", name, "done")
        for name in ("dead-letters.discard", "run.discard", "run.retry", "dead-letters.retry")
    ]


def test_the_shell_says_what_is_wrong(shell: Any, fail: Any) -> None:
    made = fail("ada")
    for wrong in (
        ("retry",),
        ("discard",),
        ("retry", "--all", "--type", "x"),
        ("retry", "--all", "--payload", "{}"),
        ("retry", "--run", made.run_id, "--queue", "mail"),
        ("retry", "--run", made.run_id, "--payload", "[]"),
    ):
        assert shell(*wrong)[0] == 2, wrong
    code, said = shell("retry", "--run", "none")
    assert (code, "'none'" in said) == (1, True)
    code, said = shell("retry", "--run", made.run_id, "--payload", '{"text": 1}')
    assert (code, "#/to" in said) == (1, True)


def test_no_filter_is_longer_than_what_it_is_compared_with(admin: FlaskClient) -> None:
    for name in ("error", "owner", "job"):
        answer = admin.post(f"{API}/dead-letters/discard", json={name: "x" * 100_000})
        assert answer.status_code == 422
        assert answer.get_json()["errors"][0]["pointer"] == f"#/{name}"
