"""`/api/v1/jobs`: making, finding and steering jobs over HTTP."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from jobserver import JobServer
from jobserver.auth import Principal
from jobserver.broker import keys
from jobserver.testing import enqueued, work
from tests.integration.web.conftest import MakeShop
from tests.integration.web.shop import TOKEN, claim, send_letter

JOBS = "/engine/api/v1/jobs"
LETTER = {"type": "shop.send_letter", "payload": {"to": "ada"}}
CLOSED = "redis://127.0.0.1:1/0"


def problem(response: Any, status: int) -> dict[str, Any]:
    assert (response.status_code, response.content_type) == (status, "application/problem+json")
    found: dict[str, Any] = response.get_json()
    assert found["status"] == status
    assert "Traceback" not in response.text
    return found


def pointers(response: Any) -> set[str]:
    return {error["pointer"] for error in problem(response, 422)["errors"]}


def test_a_job_is_accepted_with_where_to_ask_for_it(admin: FlaskClient) -> None:
    response = admin.post(JOBS, json=LETTER)
    assert response.status_code == 202
    url = f"{JOBS}/letter-ada"
    assert response.get_json() == {
        "id": "letter-ada",
        "status": "waiting",
        "statusUrl": url,
        "eventsUrl": f"{url}/events",
        "duplicate": False,
    }
    assert response.headers["Location"] == url
    assert response.headers["Link"] == f'<{url}>; rel="status"'
    assert response.headers["Retry-After"] == "2"
    assert admin.get(url).get_json()["status"] == "waiting"
    assert [job.payload for job in enqueued()] == [{"to": "ada"}]


def test_no_job_is_accepted_while_the_ledger_is_too_far_behind(
    admin: FlaskClient, server: JobServer
) -> None:
    server.broker.connection.set(f"{keys.OURS}full", 1)  # as backlog.lua does
    response = admin.post(JOBS, json=LETTER)
    assert "caught up" in problem(response, 503)["detail"]
    assert response.headers["Retry-After"] == "10"
    server.broker.backlog()
    assert admin.post(JOBS, json=LETTER).status_code == 202


def test_the_same_key_is_answered_with_the_same_job(admin: FlaskClient) -> None:
    first = admin.post(JOBS, json=LETTER).get_json()
    again = admin.post(JOBS, json=LETTER)
    assert again.status_code == 202
    assert again.get_json() == first | {"duplicate": True}
    assert len(enqueued()) == 1


def test_a_job_takes_all_options(admin: FlaskClient, server: JobServer) -> None:
    options = {
        "delay": 30,
        "priority": "high",
        "key": "mine",
        "attempts": 7,
        "backoff": {"delays": [1, 5]},
        "timeout": 9,
    }
    response = admin.post(JOBS, json=LETTER | {"options": options})
    assert (response.status_code, response.get_json()["status"]) == (202, "delayed")
    job = server.fetch("mine")
    assert (job.priority, job.attempts) == ("high", 7)
    fields = server.broker.connection.hgetall("rq:job:mine")
    assert fields[b"timeout"] == b"9"
    assert json.loads(fields[b"backoff"])["delays"] == [1, 5]
    at = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    body = {"type": "shop.send_letter", "payload": {"to": "b"}, "options": {"at": at}}
    assert admin.post(JOBS, json=body | {"options": {"at": at, "priority": 1}}).status_code == 202
    due = server.fetch("letter-b").due_at
    assert due is not None
    assert abs(due - datetime.fromisoformat(at)) < timedelta(milliseconds=2)


WRONG: list[tuple[Any, str]] = [
    ({}, "#/type"),
    ([], "#"),
    (None, "#/type"),
    ({"type": 5}, "#/type"),
    (LETTER | {"extra": 1}, "#/extra"),
    (LETTER | {"payload": []}, "#/payload"),
    (LETTER | {"payload": {}}, "#/payload/to"),
    (LETTER | {"payload": {"to": 5}}, "#/payload/to"),
    (LETTER | {"payload": {"to": "ada", "cc": "x"}}, "#/payload/cc"),
    (LETTER | {"options": {"delay": -1}}, "#/options/delay"),
    (LETTER | {"options": {"delay": "5"}}, "#/options/delay"),
    (LETTER | {"options": {"delay": True}}, "#/options/delay"),
    (LETTER | {"options": {"delay": 1e300}}, "#/options/delay"),
    (LETTER | {"options": {"at": "2030-01-01T00:00:00"}}, "#/options/at"),
    (LETTER | {"options": {"at": "9999-01-01T00:00:00Z"}}, "#/options/at"),
    (LETTER | {"options": {"at": "2030-01-01T00:00:00Z", "delay": 1}}, "#/options/at"),
    (LETTER | {"options": {"priority": "urgent"}}, "#/options/priority"),
    (LETTER | {"options": {"priority": -1}}, "#/options/priority"),
    (LETTER | {"options": {"priority": ["high"]}}, "#/options/priority"),
    (LETTER | {"options": {"key": ""}}, "#/options/key"),
    (LETTER | {"options": {"key": "k" * 501}}, "#/options/key"),
    (LETTER | {"options": {"attempts": 0}}, "#/options/attempts"),
    (LETTER | {"options": {"attempts": 2**40}}, "#/options/attempts"),
    (LETTER | {"options": {"timeout": 1.5}}, "#/options/timeout"),
    (LETTER | {"options": {"backoff": {"factor": 0}}}, "#/options/backoff/factor"),
    (LETTER | {"options": {"backoff": {"cap": 0}}}, "#/options/backoff/cap"),
    (LETTER | {"options": {"backoff": {"delays": [-1]}}}, "#/options/backoff/delays/0"),
    (LETTER | {"options": {"nice": 1}}, "#/options/nice"),
]


def test_wrong_fields_are_named(admin: FlaskClient) -> None:
    for body, pointer in WRONG:
        assert pointer in pointers(admin.post(JOBS, json=body)), body
    assert enqueued() == []


def test_an_unknown_type_is_a_404_with_the_nearest_name(admin: FlaskClient) -> None:
    found = problem(admin.post(JOBS, json={"type": "shop.send_leter"}), 404)
    assert found["type"] == "#unknown-job-type"
    assert "shop.send_letter" in found["detail"]


def test_a_key_of_another_type_is_a_409(admin: FlaskClient, server: JobServer) -> None:
    server.broker.connection.hset("rq:job:letter-ada", mapping={"type": "x", "status": "queued"})
    assert problem(admin.post(JOBS, json=LETTER), 409)["type"] == "#key-conflict"


@pytest.mark.parametrize(
    ("data", "content_type", "status"),
    [
        (b"{", "application/json", 400),
        (b"\xff\xfe", "application/json", 400),
        (b'{"type": NaN}', "application/json", 400),
        (b'{"type": "\\ud800"}', "application/json", 400),
        (b"[" * 5000, "application/json", 400),
        (b"type=shop.send_letter", "application/x-www-form-urlencoded", 415),
        (b"{}", "text/plain", 415),
        (b"{}", None, 415),
        (b"", None, 422),
        (b'{"type": "shop.send_letter"}', "application/vnd.x+json; charset=latin1", 422),
    ],
)
def test_what_is_no_json_is_refused(
    admin: FlaskClient, data: bytes, content_type: str | None, status: int
) -> None:
    problem(admin.post(JOBS, data=data, content_type=content_type), status)


def test_a_payload_too_large_is_a_413(admin: FlaskClient) -> None:
    body = LETTER | {"payload": {"to": "ada", "text": "x" * 1024 * 1024}}
    assert problem(admin.post(JOBS, json=body), 413)["type"] == "#payload-too-large"


def test_a_huge_body_is_refused_before_it_is_read(admin: FlaskClient) -> None:
    class Unread:
        def read(self, *_: int) -> bytes:
            raise AssertionError("the body was read")

        readline = readlines = __iter__ = read

    for path in (JOBS, f"{JOBS}/letter-ada/retry"):
        environ = {
            "wsgi.input": Unread(),
            "CONTENT_LENGTH": str(20 * 1024 * 1024),
            "CONTENT_TYPE": "application/json",
        }
        response = admin.post(path, environ_overrides=environ)
        problem(response, 413)


def test_without_redis_nothing_is_made_and_the_asker_is_told_when(make_shop: MakeShop) -> None:
    client = make_shop(redis_url=CLOSED).test_client()
    client.environ_base["HTTP_AUTHORIZATION"] = f"Bearer {TOKEN}"
    for response in (
        client.post(JOBS, json=LETTER),
        client.post(f"{JOBS}/bulk", json={"jobs": [LETTER]}),
        client.get(JOBS),
        client.delete(f"{JOBS}/x"),
        client.get(f"{JOBS}/x/attempts"),
        client.get("/engine/api/v1/queues"),
        client.get("/engine/api/v1/workers"),
    ):
        problem(response, 503)
        assert int(response.headers["Retry-After"]) > 0


def test_a_bulk_answers_for_each_job(admin: FlaskClient, server: JobServer) -> None:
    server.broker.connection.hset("rq:job:held", mapping={"type": "x", "status": "queued"})
    orders = [
        LETTER,
        {"type": "shop.send_letter", "payload": {"to": 5}},
        LETTER,
        {"type": "nobody"},
        LETTER | {"options": {"key": "held"}},
        {"type": "shop.send_letter", "payload": {"to": "b"}, "options": {"delay": 60}},
        {},
    ]
    response = admin.post(f"{JOBS}/bulk", json={"jobs": orders})
    assert response.status_code == 207
    found = response.get_json()
    assert (found["accepted"], found["refused"]) == (3, 4)
    items = found["items"]
    assert [item["status"] for item in items] == [202, 422, 202, 404, 409, 202, 422]
    assert [item["job"]["duplicate"] for item in items if "job" in item] == [False, True, False]
    assert items[1]["problem"]["errors"][0]["pointer"] == "#/payload/to"
    assert items[5]["job"]["status"] == "delayed"
    assert {job.id for job in enqueued()} == {"letter-ada", "letter-b"}


@pytest.mark.parametrize("jobs", [[], [1], "x", [LETTER] * 1001])
def test_a_bulk_that_is_no_list_of_jobs_is_refused_whole(admin: FlaskClient, jobs: Any) -> None:
    assert pointers(admin.post(f"{JOBS}/bulk", json={"jobs": jobs})) <= {"#/jobs", "#/jobs/0"}
    assert enqueued() == []


def test_a_thousand_jobs_are_made_at_once(admin: FlaskClient) -> None:
    orders = [
        {"type": "shop.send_letter", "payload": {"to": f"n{number}"}} for number in range(1000)
    ]
    found = admin.post(f"{JOBS}/bulk", json={"jobs": orders}).get_json()
    assert found["accepted"] == 1000
    assert [item["job"]["id"] for item in found["items"]] == [f"letter-n{n}" for n in range(1000)]


@pytest.mark.parametrize("path", [JOBS, f"{JOBS}/bulk"])
def test_a_request_repeated_with_its_key_makes_no_second_job(admin: FlaskClient, path: str) -> None:
    order = {"type": "shop.send_letter", "payload": {"to": "ada"}}
    body = {"jobs": [order, order | {"payload": {"to": "b"}}]} if path != JOBS else order
    headers = {"Idempotency-Key": '"once"'}
    first = admin.post(path, json=body, headers=headers)
    work()
    again = admin.post(path, json=body, headers=headers)
    assert (again.status_code, again.data) == (first.status_code, first.data)
    assert enqueued() == []


def test_a_job_is_canceled_once(admin: FlaskClient, server: JobServer) -> None:
    send_letter.enqueue(to="ada")
    response = admin.delete(f"{JOBS}/letter-ada")
    assert (response.status_code, response.get_json()["status"]) == (200, "canceled")
    assert problem(admin.delete(f"{JOBS}/letter-ada"), 409)["type"] == "#wrong-state"
    problem(admin.delete(f"{JOBS}/nobody"), 404)


def test_a_running_job_is_told_to_stop(admin: FlaskClient, server: JobServer) -> None:
    send_letter.enqueue(to="ada")
    claim(server)
    response = admin.delete(f"{JOBS}/letter-ada")
    assert (response.status_code, response.get_json()["status"]) == (202, "active")


def test_a_failed_job_is_retried(admin: FlaskClient) -> None:
    send_letter.enqueue(to="ada", text="illegal")
    work()
    response = admin.post(f"{JOBS}/letter-ada/retry")
    assert (response.status_code, response.get_json()["status"]) == (202, "waiting")
    assert response.headers["Location"] == f"{JOBS}/letter-ada"
    problem(admin.post(f"{JOBS}/letter-ada/retry"), 409)
    problem(admin.post(f"{JOBS}/nobody/retry"), 404)


@pytest.mark.parametrize("below", ["api/v1/jobs", "api/v1/queues/MAIL/jobs"])
def test_a_delayed_job_is_promoted(admin: FlaskClient, server: JobServer, below: str) -> None:
    server.enqueue(send_letter, {"to": "ada"}, delay=60)
    response = admin.post(f"/engine/{below}/letter-ada/promote")
    assert (response.status_code, response.get_json()["status"]) == (202, "waiting")
    problem(admin.post(f"/engine/{below}/letter-ada/promote"), 409)
    problem(admin.post(f"/engine/{below}/nobody/promote"), 404)


def test_the_result_of_a_completed_job(admin: FlaskClient) -> None:
    send_letter.enqueue(to="ada")
    assert problem(admin.get(f"{JOBS}/letter-ada/result"), 409)["type"] == "#wrong-state"
    work()
    found = admin.get(f"{JOBS}/letter-ada/result").get_json()
    assert found == {"id": "letter-ada", "result": {"sent": "ada"}}
    problem(admin.get(f"{JOBS}/nobody/result"), 404)


def test_the_attempts_of_a_job(admin: FlaskClient, server: JobServer) -> None:
    send_letter.enqueue(to="ada", text="lost")
    assert admin.get(f"{JOBS}/letter-ada/attempts").get_json() == {"items": []}
    work()
    server.promote("letter-ada")
    work()
    items = admin.get(f"{JOBS}/letter-ada/attempts").get_json()["items"]
    assert [(one["number"], one["outcome"]) for one in items] == [(1, "failed"), (2, "failed")]
    assert "ConnectionError: the post is on strike" in items[0]["error"]
    assert items[0]["durationMs"] >= 0
    assert datetime.fromisoformat(items[0]["startedAt"]).tzinfo is not None
    problem(admin.get(f"{JOBS}/nobody/attempts"), 404)


def walk(client: FlaskClient, url: str) -> list[dict[str, Any]]:
    """All items, by the Link to each next page."""
    items: list[dict[str, Any]] = []
    while True:
        response = client.get(url)
        assert response.status_code == 200, response.text
        found = response.get_json()
        items += found["items"]
        if found["nextCursor"] is None:
            assert "Link" not in response.headers
            return items
        url = response.headers["Link"].removeprefix("<").removesuffix('>; rel="next"')
        assert found["nextCursor"] in url


def make_jobs(server: JobServer) -> None:
    """Three that completed, one that failed, two that wait, one that is delayed."""
    for name in ("a", "b", "c"):
        send_letter.enqueue(to=name)
    send_letter.enqueue(to="bad", text="illegal")
    work()
    server.enqueue(send_letter, {"to": "late"}, delay=60)
    server.enqueue(send_letter, {"to": "x"}, priority="low")
    server.enqueue(send_letter, {"to": "y"}, priority="high", key="other")


@pytest.mark.parametrize("path", ["api/v1/jobs", "api/v1/queues/MAIL/jobs"])
@pytest.mark.parametrize("limit", [1, 2, 200])
def test_jobs_are_listed_page_by_page(
    admin: FlaskClient, server: JobServer, path: str, limit: int
) -> None:
    make_jobs(server)
    items = walk(admin, f"/engine/{path}?limit={limit}")
    assert [item["id"] for item in items] == [
        *("other", "letter-x", "letter-late", "letter-bad"),
        *("letter-c", "letter-b", "letter-a"),
    ]
    assert items[0]["priority"] == "high"
    assert items[3]["error"] == {"type": "Discard", "message": "no such street"}


@pytest.mark.parametrize(
    ("query", "ids"),
    [
        ("state=completed", {"letter-a", "letter-b", "letter-c"}),
        ("state=delayed", {"letter-late"}),
        ("state=active", set()),
        ("keyPrefix=oth", {"other"}),
        ("queue=mail&state=failed", {"letter-bad"}),
        ("type=shop.nothing", set()),
        ("type=shop.send_letter&state=waiting", {"other", "letter-x"}),
        ("createdFrom=2100-01-01T00:00:00Z", set()),
        ("createdBefore=2100-01-01T00:00:00%2B02:00&state=failed", {"letter-bad"}),
    ],
)
def test_jobs_are_filtered(
    admin: FlaskClient, server: JobServer, query: str, ids: set[str]
) -> None:
    make_jobs(server)
    for limit in (1, 50):
        assert {item["id"] for item in walk(admin, f"{JOBS}?limit={limit}&{query}")} == ids


@pytest.mark.parametrize(
    ("query", "pointer"),
    [
        ("limit=0", "#/limit"),
        ("limit=201", "#/limit"),
        ("limit=many", "#/limit"),
        ("state=lost", "#/state"),
        ("cursor=x", "#/cursor"),
        ("cursor=" + "x" * 5000, "#/cursor"),
        ("createdFrom=yesterday", "#/createdFrom"),
        ("createdFrom=2024-01-01T00:00:00", "#/createdFrom"),
    ],
)
def test_a_wrong_query_is_a_422(admin: FlaskClient, query: str, pointer: str) -> None:
    assert pointers(admin.get(f"{JOBS}?{query}")) == {pointer}


def test_a_cursor_fits_its_own_list_only(admin: FlaskClient, server: JobServer) -> None:
    make_jobs(server)
    cursor = admin.get(f"{JOBS}?limit=1").get_json()["nextCursor"]
    assert admin.get(f"{JOBS}?limit=1&cursor={cursor}").status_code == 200
    for url in (
        f"{JOBS}?state=completed&cursor={cursor}",
        f"{JOBS}?cursor={cursor[:-1]}",
        f"/engine/api/v1/queues/mail/jobs?cursor={cursor}",
    ):
        assert pointers(admin.get(url)) == {"#/cursor"}


def test_a_user_owns_what_it_makes_and_finds_nothing_else(
    ada: FlaskClient, admin: FlaskClient, server: JobServer
) -> None:
    make_jobs(server)
    mine = ada.post(JOBS, json={"type": "shop.send_letter", "payload": {"to": "mine"}})
    assert mine.status_code == 202
    assert server.fetch("letter-mine").owner == "1"
    assert [item["id"] for item in walk(ada, JOBS)] == ["letter-mine"]
    assert len(walk(admin, JOBS)) == 8
    assert ada.get(mine.headers["Location"]).status_code == 200
    for method, path in (
        ("DELETE", "letter-x"),
        ("POST", "letter-bad/retry"),
        ("GET", "letter-a/result"),
        ("GET", "letter-bad/attempts"),
    ):
        response = ada.open(f"{JOBS}/{path}", method=method)
        assert problem(response, 404)["type"] == "#job-not-found"
    assert ada.delete(f"{JOBS}/letter-mine").status_code == 200


def test_a_user_cannot_take_the_key_of_anothers_job(ada: FlaskClient, server: JobServer) -> None:
    make_jobs(server)
    for to in ("x", "a"):  # one waits, one has ended
        order = {"type": "shop.send_letter", "payload": {"to": to}}
        assert problem(ada.post(JOBS, json=order), 409)["type"] == "#key-conflict"
        bulk = ada.post(f"{JOBS}/bulk", json={"jobs": [order]}).get_json()
        assert bulk["items"][0]["status"] == 409
    assert server.fetch("letter-a").status == "completed"


WRITES = [
    ("POST", "api/v1/jobs", LETTER),
    ("POST", "api/v1/jobs/bulk", {"jobs": [LETTER]}),
    ("DELETE", "api/v1/jobs/letter-x", None),
    ("POST", "api/v1/jobs/letter-bad/retry", None),
    ("POST", "api/v1/jobs/letter-late/promote", None),
    ("POST", "api/v1/queues/mail/jobs/letter-late/promote", None),
    ("POST", "api/v1/queues/mail/empty", None),
]


@pytest.fixture
def as_role(shop: Flask, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A client whose requests come from a principal with a role."""
    gate = shop.extensions["jobserver.gate"]

    def client(role: Any) -> FlaskClient:
        monkeypatch.setattr(gate, "_hook", lambda: Principal(name=role, role=role))
        return shop.test_client()

    return client


@pytest.mark.parametrize(("method", "path", "body"), WRITES)
def test_who_may_only_look_changes_nothing(
    as_role: Any, visitor: FlaskClient, server: JobServer, method: str, path: str, body: Any
) -> None:
    make_jobs(server)
    before = server.counts()
    problem(visitor.open(f"/engine/{path}", method=method, json=body), 401)
    problem(as_role("viewer").open(f"/engine/{path}", method=method, json=body), 403)
    assert server.counts() == before
    is_admins = path.endswith("empty")
    answer = as_role("operator").open(f"/engine/{path}", method=method, json=body)
    assert answer.status_code == 403 if is_admins else answer.status_code in (200, 202, 207)
    if is_admins:
        assert as_role("admin").open(f"/engine/{path}", method=method).status_code == 200


@pytest.mark.parametrize("path", ["queues", "queues/mail", "queues/mail/jobs", "workers"])
def test_a_user_sees_no_queue_and_no_worker(ada: FlaskClient, path: str) -> None:
    problem(ada.get(f"/engine/api/v1/{path}"), 403)


ODD = ("%00", "%ff%fe", "a" * 5000, "%F0%9F%92%A9", "..%2f..", "%20", "*", "%0d%0aX: y", "a:b", ".")


def test_odd_ids_and_names_are_unknown(admin: FlaskClient) -> None:
    for method, path in (
        ("DELETE", "api/v1/jobs/{}"),
        ("POST", "api/v1/jobs/{}/retry"),
        ("POST", "api/v1/jobs/{}/promote"),
        ("GET", "api/v1/jobs/{}/result"),
        ("GET", "api/v1/jobs/{}/attempts"),
        ("GET", "api/v1/queues/{}"),
        ("GET", "api/v1/queues/{}/jobs"),
        ("POST", "api/v1/queues/{}/empty"),
        ("POST", "api/v1/queues/mail/jobs/{}/promote"),
    ):
        for odd in ODD:
            response = admin.open(f"/engine/{path.format(odd)}", method=method)
            assert response.status_code in (404, 405), (path, odd)


def test_a_wrong_method_is_a_405_that_names_the_right_ones(admin: FlaskClient) -> None:
    response = admin.put(JOBS, json={})
    assert problem(response, 405)["title"] == "Method Not Allowed"
    assert {"GET", "POST"} <= set(response.headers["Allow"].split(", "))
