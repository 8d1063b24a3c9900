"""`/api/v1/jobs/<id>/events`: Server-Sent Events, and the tickets that open them."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from typing import Any

import orjson
import pytest
from flask import Flask
from flask.testing import FlaskClient
from redis import Redis
from werkzeug.test import TestResponse

from jobserver import JobServer
from jobserver.broker import keys
from jobserver.testing import work
from tests.hands import Hand
from tests.integration.web.conftest import MakeShop
from tests.integration.web.shop import MAIL, TOKEN, send_letter, tell

JOBS = "/engine/api/v1/jobs"


class Stream:
    """A stream that is read one event at a time."""

    def __init__(self, response: TestResponse) -> None:
        self.response = response
        assert response.status_code == 200, response.get_data()
        assert response.headers["Content-Type"].startswith("text/event-stream")
        self._parts = response.iter_encoded()

    def raw(self) -> str | None:
        """Return the next event as it was sent, None at the end of the stream."""
        part = next(self._parts, None)
        assert part is None or part.endswith(b"\n\n")
        return part.decode() if part else None

    def event(self) -> tuple[str, dict[str, Any]] | None:
        """Return name and data of the next event."""
        part = self.raw()
        if part is None:
            return None
        fields = dict(line.split(": ", 1) for line in part.strip().splitlines())
        return fields["event"], orjson.loads(fields["data"])

    def rest(self) -> list[tuple[str, dict[str, Any]]]:
        """Return what is left."""
        return list(iter(self.event, None))  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def lookout_ends(server: JobServer) -> Iterator[None]:
    yield
    server.lookout.close()


@pytest.fixture
def hand(server: JobServer) -> Hand:
    return Hand(server.broker, [MAIL])


def followed(client: FlaskClient, job_id: str, **headers: str) -> Stream:
    return Stream(client.get(f"{JOBS}/{job_id}/events", headers=headers))


def test_a_job_is_followed_from_its_state_to_its_end(
    admin: FlaskClient, server: JobServer, hand: Hand
) -> None:
    job = send_letter.enqueue(to="ada")
    stream = followed(admin, job.id)
    assert stream.response.headers["X-Accel-Buffering"] == "no"
    assert stream.response.headers["Cache-Control"] == "no-cache"
    first = stream.raw()
    assert first is not None
    assert first.startswith("retry: 2000\nid: ")
    assert orjson.loads(first.partition("data: ")[2]) == admin.get(f"{JOBS}/{job.id}").get_json()
    taken = hand.take()
    name, body = stream.event() or ("", {})
    assert (name, body["status"], body["attempt"]) == ("state", "active", 1)
    server.broker.progress(job.id, taken.exec, percent=40, message="sealing")
    name, said = stream.event() or ("", {})
    assert (name, said["event"], said["message"]) == ("log", "progress", "sealing")
    assert said["at"].endswith("+00:00")
    name, body = stream.event() or ("", {})
    assert (name, body["progress"]) == ("progress", {"percent": 40, "message": "sealing"})
    hand.end(taken, value='{"sent": "ada"}')
    name, body = stream.event() or ("", {})
    assert (name, body["status"], body["result"]) == ("end", "completed", {"sent": "ada"})
    assert body == admin.get(f"{JOBS}/{job.id}").get_json()
    assert stream.event() is None


def test_a_failed_attempt_is_in_the_log_and_a_state(admin: FlaskClient, hand: Hand) -> None:
    job = send_letter.enqueue(to="ada")
    stream = followed(admin, job.id)
    stream.event()
    hand.end(hand.take(), "retry", delay=40, error_message="no stamps")
    found = [stream.event() or ("", {}) for _ in range(2)]
    if all(name == "state" for name, _ in found) or found[0][1].get("status") == "active":
        found = [found[1], stream.event() or ("", {})]
    # The state may have been read before the event was.
    (log, said), (name, body) = sorted(found, key=lambda event: event[0])
    assert (log, said["event"], said["message"]) == ("log", "failed", "no stamps")
    assert (name, body["status"], body["error"]["message"]) == ("state", "delayed", "no stamps")


def test_an_ended_job_is_its_state_and_its_end(admin: FlaskClient) -> None:
    job = send_letter.enqueue(to="ada")
    work()
    (first, state), (last, end) = followed(admin, job.id).rest()
    assert (first, last) == ("state", "end")
    assert state == end == admin.get(f"{JOBS}/{job.id}").get_json()


def test_a_browser_that_saw_the_end_is_told_to_stay_away(admin: FlaskClient) -> None:
    job = send_letter.enqueue(to="ada")
    work()
    version = admin.get(f"{JOBS}/{job.id}").headers["ETag"][3:-1]
    again = admin.get(f"{JOBS}/{job.id}/events", headers={"Last-Event-ID": version})
    assert (again.status_code, again.data) == (204, b"")
    # A version of before the end: the end is news.
    assert followed(admin, job.id, **{"Last-Event-ID": "other"}).rest()[-1][0] == "end"


def test_silence_is_filled_with_heartbeats(
    admin: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobserver.http.event_stream.HEARTBEAT", 0.1)
    stream = followed(admin, send_letter.enqueue(to="ada").id)
    stream.event()
    assert [stream.raw(), stream.raw()] == [":\n\n", ":\n\n"]


def test_a_stream_ends_after_a_while_so_that_its_reader_is_admitted_anew(
    admin: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobserver.http.event_stream.HEARTBEAT", 0.1)
    monkeypatch.setattr("jobserver.http.event_stream.LONGEST", 0.3)
    stream = followed(admin, send_letter.enqueue(to="ada").id)
    parts = list(iter(stream.raw, None))
    assert parts[0].startswith("retry: 2000\n")
    assert 1 <= len(parts[1:]) <= 4
    assert set(parts[1:]) == {":\n\n"}


def test_closed_streams_give_their_places_back(make_shop: MakeShop) -> None:
    app: Flask = make_shop(max_waiters=1)
    client = app.test_client()
    client.environ_base["HTTP_AUTHORIZATION"] = f"Bearer {TOKEN}"
    with app.app_context():
        job = send_letter.enqueue(to="ada")
        for _ in range(2):  # the second finds the place of the first free
            stream = followed(client, job.id)
            assert "retry: 2000\n" in (stream.raw() or "")
            # Beyond the cap there is the state, and the browser comes again like a poller.
            capped = followed(client, job.id)
            assert (capped.raw() or "").startswith("retry: 2000\nid: ")
            assert capped.raw() is None
            stream.response.close()
            assert client.head(f"{JOBS}/{job.id}/events").status_code == 200
            assert client.get(f"{JOBS}/nobody/events").status_code == 404
        app.extensions["jobserver"].lookout.close()


def test_a_job_that_is_purged_ends_the_stream(
    admin: FlaskClient, server: JobServer, redis: Redis
) -> None:
    job = send_letter.enqueue(to="ada")
    stream = followed(admin, job.id)
    stream.event()
    server.empty("mail")
    assert redis.exists(keys.job(job.id)) == 0
    ((name, said),) = stream.rest()
    assert (name, said["event"], said["message"]) == ("log", "purged", "empty")


def test_lines_that_the_job_logs_are_told(
    admin: FlaskClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    job = tell.enqueue(card="4111", amount=2)
    stream = followed(admin, job.id)
    stream.event()
    work("mail")
    said = [data for name, data in stream.rest() if name == "log" and data["event"] == "log"]
    assert [(one["message"], one["level"]) for one in said if "line" in one["message"]] == [
        *[("line 0 with [redacted]", "info"), ("line 1 with [redacted]", "info")] * 2,
    ]


def test_when_the_process_stops_the_streams_end(admin: FlaskClient, server: JobServer) -> None:
    stream = followed(admin, send_letter.enqueue(to="ada").id)
    stream.event()
    server.lookout.close()
    began = time.monotonic()
    assert stream.rest() == []
    assert time.monotonic() < began + 5


def test_others_jobs_are_unknown(ada: FlaskClient, server: JobServer, redis: Redis) -> None:
    others = server.enqueue(send_letter, {"to": "grace"}, owner="2")
    for path in (f"{others.id}/events", "nobody/events"):
        assert ada.get(f"{JOBS}/{path}").status_code == 404
    assert ada.post(f"{JOBS}/{others.id}/ticket").status_code == 404
    mine = server.enqueue(send_letter, {"to": "ada"}, owner="1")
    stream = followed(ada, mine.id)
    stream.event()
    redis.hset(keys.job(mine.id), "owner", "2")
    Hand(server.broker, [MAIL]).claim(processes=2)
    assert stream.rest() == []


def test_a_ticket_opens_one_jobs_stream_for_who_got_it(
    ada: FlaskClient, visitor: FlaskClient, server: JobServer
) -> None:
    mine = server.enqueue(send_letter, {"to": "ada"}, owner="1")
    beside = server.enqueue(send_letter, {"to": "eve"}, owner="1")
    made = ada.post(f"{JOBS}/{mine.id}/ticket")
    assert (made.status_code, made.headers["Cache-Control"]) == (201, "no-store")
    body = made.get_json()
    assert body["expiresIn"] <= 60
    assert body["eventsUrl"] == f"{JOBS}/{mine.id}/events?ticket={body['ticket']}"
    assert visitor.get(f"{JOBS}/{mine.id}/events").status_code == 401
    assert (Stream(visitor.get(body["eventsUrl"])).event() or ("", {}))[1]["id"] == mine.id
    for path in (f"{beside.id}/events", mine.id, ""):  # no other job, no other route
        refused = visitor.get(f"{JOBS}/{path}?ticket={body['ticket']}")
        assert refused.status_code in (401, 404, 405), path
    assert visitor.get(f"{JOBS}/{beside.id}/events?ticket={body['ticket']}").status_code == 401


def test_a_ticket_keeps_its_holders_bounds(
    ada: FlaskClient, visitor: FlaskClient, server: JobServer, redis: Redis
) -> None:
    mine = server.enqueue(send_letter, {"to": "ada"}, owner="1")
    url = ada.post(f"{JOBS}/{mine.id}/ticket").get_json()["eventsUrl"]
    redis.hset(keys.job(mine.id), "owner", "2")
    assert visitor.get(url).status_code == 404


def test_an_old_or_false_ticket_is_refused(
    admin: FlaskClient, visitor: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = send_letter.enqueue(to="ada")
    url = admin.post(f"{JOBS}/{job.id}/ticket").get_json()["eventsUrl"]
    refused = visitor.get(f"{url}x")
    assert (refused.status_code, refused.headers["WWW-Authenticate"]) == (401, "Bearer")
    assert visitor.get(f"{JOBS}/{job.id}/events?ticket=").status_code == 401
    # A false ticket is refused even beside a good token: nobody falls back unseen.
    assert admin.get(f"{JOBS}/{job.id}/events?ticket=false").status_code == 401
    monkeypatch.setattr("jobserver.auth.TICKET_SECONDS", -1)
    assert visitor.get(url).status_code == 401


def test_a_session_cookie_is_no_ticket(admin: FlaskClient, visitor: FlaskClient) -> None:
    job = send_letter.enqueue(to="ada")
    visitor.post("/engine/sign-in", data={"token": TOKEN})
    cookie = visitor.get_cookie("jobserver_session", path="/engine") or visitor.get_cookie(
        "jobserver_session"
    )
    assert cookie is not None
    stranger = admin.application.test_client()
    assert stranger.get(f"{JOBS}/{job.id}/events?ticket={cookie.value}").status_code == 401
    # But it opens the stream where the browser sends it.
    assert followed(visitor, job.id).event() is not None
