"""`GET /api/v1/jobs/<id>` with `?wait=` or `Prefer: wait=`: answered when the job has changed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest
from flask import Flask
from flask.testing import FlaskClient
from redis import Redis
from werkzeug.test import TestResponse

from jobserver import Job, JobServer
from jobserver.testing import work
from tests.acceptance.conftest import wait_until
from tests.integration.web.conftest import MakeShop
from tests.integration.web.shop import TOKEN, claim, send_letter

URL = "/engine/api/v1/jobs/"


@pytest.fixture(autouse=True)
def lookout_ends(server: JobServer) -> Iterator[None]:
    yield
    server.lookout.close()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool


def tag_of(client: FlaskClient, job: Job) -> str:
    return client.get(URL + job.id).headers["ETag"]


def asked(
    pool: ThreadPoolExecutor, client: FlaskClient, path: str, **headers: str
) -> Future[TestResponse]:
    """Ask in another thread, with a client of its own."""
    own = client.application.test_client()
    own.environ_base.update(client.environ_base)
    return pool.submit(own.get, URL + path, headers=headers)


def follows(redis: Redis) -> bool:
    return any(client["cmd"] == "xread" for client in redis.client_list())


@pytest.mark.parametrize(
    ("query", "headers", "applied"),
    [
        ("?wait=25", {}, "wait=25"),
        ("?wait=4000", {}, "wait=30"),
        ("?wait=00000000000000000000020", {}, "wait=20"),
        ("", {"Prefer": "wait=25"}, "wait=25"),
        ("", {"Prefer": 'respond-async, WAIT = "20"; x=y, lenient'}, "wait=20"),
        ("?wait=9", {"Prefer": "wait=25"}, "wait=9"),
    ],
)
def test_a_waiting_poll_is_answered_when_the_job_changes(
    pool: ThreadPoolExecutor,
    admin: FlaskClient,
    redis: Redis,
    query: str,
    headers: dict[str, str],
    applied: str,
) -> None:
    job = send_letter.enqueue(to="ada")
    tag = tag_of(admin, job)
    began = time.monotonic()
    poll = asked(pool, admin, job.id + query, **{"If-None-Match": tag}, **headers)
    wait_until(lambda: follows(redis), what="it waits")
    assert not poll.done()
    work()
    answer = poll.result(30)
    assert time.monotonic() < began + 8
    assert (answer.status_code, answer.get_json()["status"]) != (200, "waiting")
    assert answer.headers["ETag"] != tag
    assert answer.headers["Preference-Applied"] == applied
    assert "Prefer" in answer.headers["Vary"]


def test_progress_is_a_change(
    pool: ThreadPoolExecutor, admin: FlaskClient, server: JobServer, redis: Redis
) -> None:
    job = send_letter.enqueue(to="ada")
    taken = claim(server)[0]
    poll = asked(pool, admin, f"{job.id}?wait=25", **{"If-None-Match": tag_of(admin, job)})
    wait_until(lambda: follows(redis), what="it waits")
    server.broker.progress(job.id, taken.exec, percent=30, message="sealing")
    assert poll.result(30).get_json()["progress"] == {"percent": 30, "message": "sealing"}


def test_an_unchanged_job_is_a_304_at_the_deadline(admin: FlaskClient) -> None:
    job = send_letter.enqueue(to="ada")
    began = time.monotonic()
    tag = tag_of(admin, job)
    answer = admin.get(f"{URL}{job.id}?wait=1", headers={"If-None-Match": tag})
    assert time.monotonic() >= began + 1
    assert (answer.status_code, answer.headers["ETag"]) == (304, tag)
    assert answer.headers["Preference-Applied"] == "wait=1"


def test_who_names_no_version_waits_for_a_change_too(
    pool: ThreadPoolExecutor, admin: FlaskClient, redis: Redis
) -> None:
    job = send_letter.enqueue(to="ada")
    assert admin.get(f"{URL}{job.id}?wait=1").get_json()["status"] == "waiting"
    poll = asked(pool, admin, f"{job.id}?wait=25")
    wait_until(lambda: follows(redis), what="it waits")
    work()
    assert poll.result(30).get_json()["status"] != "waiting"


def test_what_the_asker_does_not_know_is_answered_at_once(admin: FlaskClient) -> None:
    job = send_letter.enqueue(to="ada")
    tag = tag_of(admin, job)
    work()
    began = time.monotonic()
    assert admin.get(f"{URL}{job.id}?wait=25", headers={"If-None-Match": tag}).status_code == 200
    assert admin.get(f"{URL}{job.id}?wait=25").get_json()["status"] == "completed"
    assert time.monotonic() < began + 10


def test_beyond_the_cap_the_answer_comes_at_once(make_shop: MakeShop) -> None:
    app: Flask = make_shop(max_waiters=0)
    client = app.test_client()
    client.environ_base["HTTP_AUTHORIZATION"] = f"Bearer {TOKEN}"
    with app.app_context():
        job = send_letter.enqueue(to="ada")
        began = time.monotonic()
        tag = tag_of(client, job)
        answer = client.get(f"{URL}{job.id}?wait=25", headers={"If-None-Match": tag})
        assert time.monotonic() < began + 10
        assert answer.status_code == 304
        assert "Preference-Applied" not in answer.headers


def test_others_jobs_are_unknown_to_who_waits_too(
    pool: ThreadPoolExecutor, ada: FlaskClient, server: JobServer, redis: Redis
) -> None:
    others = server.enqueue(send_letter, {"to": "grace"}, owner="2")
    assert ada.get(f"{URL}{others.id}?wait=25").status_code == 404
    assert ada.get(f"{URL}nobody?wait=25").status_code == 404
    mine = server.enqueue(send_letter, {"to": "ada"}, owner="1")
    poll = asked(pool, ada, f"{mine.id}?wait=25")
    wait_until(lambda: follows(redis), what="it waits")
    redis.hset(f"rq:job:{mine.id}", "owner", "2")
    claim(server)
    assert poll.result(30).status_code == 404


@pytest.mark.parametrize("wait", ["", "soon", "-1", "1.5", "٣", "1 "])
def test_a_wait_that_is_no_number_of_seconds_is_a_422(admin: FlaskClient, wait: str) -> None:
    job = send_letter.enqueue(to="ada")
    answer = admin.get(URL + job.id, query_string={"wait": wait})
    assert answer.status_code == 422
    assert answer.get_json()["errors"][0]["pointer"] == "#/wait"


@pytest.mark.parametrize("prefer", ["wait=soon", "await=9", "wait", "", "handling=strict; wait=9x"])
def test_a_preference_that_says_nothing_of_waiting_is_ignored(
    admin: FlaskClient, prefer: str
) -> None:
    answer = admin.get(URL + send_letter.enqueue(to="ada").id, headers={"Prefer": prefer})
    assert answer.status_code == 200
    assert "Preference-Applied" not in answer.headers


def test_when_the_process_stops_who_waits_is_answered(
    pool: ThreadPoolExecutor, admin: FlaskClient, server: JobServer, redis: Redis
) -> None:
    job = send_letter.enqueue(to="ada")
    poll = asked(pool, admin, f"{job.id}?wait=25", **{"If-None-Match": tag_of(admin, job)})
    wait_until(lambda: follows(redis), what="it waits")
    began = time.monotonic()
    server.lookout.close()
    assert poll.result(30).status_code == 304
    assert time.monotonic() < began + 10
