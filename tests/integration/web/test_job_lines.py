"""What a job logs is kept with its run: the last lines, in Redis and in the ledger."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from flask import Flask
from flask.testing import FlaskClient
from redis import Redis

from jobserver import Job, JobServer, log
from jobserver.broker import keys
from jobserver.config import Config
from jobserver.http.schemas import LogsSchema
from jobserver.progress import Reporter, Run, entered
from jobserver.recorder import Recorder
from jobserver.testing import work
from jobserver.transcript import LINE_CHARS, MOST_BYTES, MOST_LINES
from tests.hands import events, hash_of
from tests.integration.web.shop import db, tell

CARD = "4111-1111-1111"


@pytest.fixture(autouse=True)
def logging_at_info() -> Iterator[None]:
    root = logging.getLogger()
    before = root.level
    root.setLevel(logging.INFO)
    if not structlog.is_configured():
        log.start(Config())
    yield
    root.setLevel(before)


@pytest.fixture
def recorder(server: JobServer) -> Iterator[Recorder]:
    recorder = Recorder(server, db.engine)
    yield recorder
    recorder.close()


def lines(client: FlaskClient, job: Job, *, run: str = "") -> Any:
    path = f"/engine/api/v1/jobs/{job.id}/logs"
    answer = client.get(path, query_string={"run": run} if run else {})
    assert answer.status_code == 200, answer.text
    assert not LogsSchema().validate(json.loads(answer.text))
    return answer.get_json()


def test_lines_are_kept_with_their_run_and_recorded(
    admin: FlaskClient, recorder: Recorder, redis: Redis
) -> None:
    made = tell.enqueue(card=CARD, amount=2)
    work("mail")
    shown = lines(admin, made)
    said = [(one["number"], one["attempt"], one["message"]) for one in shown["items"]]
    assert said == [
        *((1, 1, "line 0 with [redacted]"), (2, 1, "line 1 with [redacted]")),
        (3, 1, "told amount=2"),
        *((4, 2, "line 0 with [redacted]"), (5, 2, "line 1 with [redacted]")),
        (6, 2, "told amount=2"),
    ]
    assert [one["level"] for one in shown["items"]] == ["info", "info", "warning"] * 2
    assert (shown["run"], shown["dropped"]) == (made.run_id, 0)
    assert 0 < redis.ttl(keys.log(made.run_id)) <= 10**8
    recorder.work()
    assert lines(admin, made, run=made.run_id) == shown
    redis.delete(keys.job(made.id), keys.log(made.run_id))
    assert lines(admin, made) == shown, "from the ledger"
    assert lines(admin, made, run=made.run_id) == shown


def test_only_the_last_lines_are_kept(admin: FlaskClient, recorder: Recorder, redis: Redis) -> None:
    made = tell.enqueue(card=CARD, amount=350)
    work("mail")
    shown = lines(admin, made)
    assert len(shown["items"]) == MOST_LINES
    numbers = [one["number"] for one in shown["items"]]
    assert numbers == list(range(702 - MOST_LINES + 1, 703))
    assert shown["dropped"] == 702 - MOST_LINES
    recorder.work()
    redis.flushall()
    assert lines(admin, made) == shown


def test_long_lines_are_cut_and_take_no_more_than_their_room(
    admin: FlaskClient, redis: Redis, server: JobServer
) -> None:
    made = tell.enqueue(card=CARD, amount=1)
    run = run_of(server, made)
    with entered(run):
        for number in range(20):
            logging.getLogger("shop").info("%d %s", number, "y" * 20_000)
    shown = lines(admin, made)
    assert all(len(one["message"]) == LINE_CHARS + 1 for one in shown["items"])
    stored = redis.lrange(keys.log(made.run_id), 0, -1)
    assert sum(map(len, stored)) <= MOST_BYTES < sum(map(len, stored)) + LINE_CHARS + 200
    assert shown["items"][-1]["number"] == 20
    assert shown["dropped"] == 20 - len(stored)


def run_of(server: JobServer, made: Job) -> Run:
    def write(dropped: int, lines: Any) -> None:
        server.broker.log(made.id, made.run_id, dropped=dropped, lines=lines, ttl=60)

    reporter = Reporter(lambda percent, message: "ok", lambda: "ok")
    identity = {"id": made.id, "run_id": made.run_id, "type": made.type}
    return Run(**identity, attempt=1, attempts=1, reporter=reporter, write=write)


def test_lines_of_a_job_that_goes_on_are_there_in_a_second(
    admin: FlaskClient, redis: Redis, server: JobServer
) -> None:
    made = tell.enqueue(card=CARD, amount=1)
    is_seen = threading.Event()

    def go_on() -> None:
        with entered(run_of(server, made)):
            logging.getLogger("shop").info("half way")
            assert is_seen.wait(10)
            logging.getLogger("shop").info("done")

    thread = threading.Thread(target=go_on)
    thread.start()
    deadline = time.monotonic() + 10
    while not (shown := lines(admin, made)["items"]):
        assert time.monotonic() < deadline
    assert [one["message"] for one in shown] == ["half way"]
    is_seen.set()
    thread.join()
    assert [one["message"] for one in lines(admin, made)["items"]] == ["half way", "done"]
    told = [event for event in events(redis, made.id) if event["event"] == "log"]
    assert [(event["first"], event["oldest"]) for event in told] == [("1", "1"), ("2", "1")]


def test_users_see_the_lines_of_their_own_jobs_only(
    shop: Flask, ada: FlaskClient, recorder: Recorder, redis: Redis
) -> None:
    grace = shop.test_client()
    grace.environ_base["HTTP_X_CUSTOMER"] = "grace"
    order = {"type": "shop.tell", "payload": {"card": CARD, "amount": 1}}
    job_id = ada.post("/engine/api/v1/jobs", json=order).get_json()["id"]
    run = hash_of(redis, job_id)["run"]
    work("mail")
    recorder.work()
    path = f"/engine/api/v1/jobs/{job_id}/logs"
    for gone in (False, True):
        if gone:
            redis.flushall()
        for query in ("", f"?run={run}"):
            assert len(ada.get(path + query).get_json()["items"]) == 4
            assert grace.get(path + query).status_code == 404
    assert ada.get(f"/engine/api/v1/jobs/other/logs?run={run}").status_code == 404


def test_a_job_that_logs_nothing_leaves_nothing(redis: Redis, server: JobServer) -> None:
    made = server.enqueue("shop.send_letter", {"to": "ada"})
    work("mail")
    assert "logged" not in hash_of(redis, made.id)
    assert not redis.exists(keys.log(made.run_id))
    assert "log" not in [event["event"] for event in events(redis, made.id)]


def test_lines_go_with_the_job(redis: Redis, server: JobServer) -> None:
    made = tell.enqueue(card=CARD, amount=1)
    work("mail")
    assert redis.exists(keys.log(made.run_id))
    server.clean("mail", older_than=0, states=["completed"])
    assert not redis.exists(keys.log(made.run_id))
