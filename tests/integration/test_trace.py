"""One id goes from a request or a tick to its jobs, and from job to job."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from flask import Flask
from redis import Redis

from jobserver import Config, Every, JobServer, Policy, Queue, current_run, enqueue, fixed, job
from jobserver.broker.entries import DUE, state_key
from jobserver.scheduler import Scheduler
from jobserver.testing import work
from jobserver.trace import trace
from tests.hands import events, hash_of

TOKEN = "a-token-for-tests"
Q = Queue("traced", executor="thread")

seen: dict[str, list[str]] = {}  # the traces of each job's runs


def see() -> None:
    run = current_run()
    assert run is not None
    seen.setdefault(run.id, []).append(trace())


@job(queue=Q, policy=Policy(attempts=2, backoff=fixed(0)))
def parent(depth: int = 0) -> str | None:
    """Enqueue a child while there is depth left; the last one fails at its first attempt."""
    see()
    run = current_run()
    if depth:
        return enqueue("test_trace.parent", {"depth": depth - 1}).id
    if run and run.attempt == 1:
        raise ConnectionError("once more")
    return None


@job(queue=Q, key="only-one", policy=Policy(when_active="rerun"))
def single(number: int) -> None:
    """One at a time; what comes meanwhile follows."""
    see()
    if number == 1:
        enqueue("test_trace.single", {"number": 2})


tick = Every(id="ticking", seconds=3600, job=parent, payload={"depth": 1})


@pytest.fixture
def app(redis: Redis, valkey: str) -> Iterator[Flask]:
    seen.clear()
    app = Flask("traced")
    JobServer(app, jobs=[__name__], config=Config(redis_url=valkey, admin_token=TOKEN))
    app.add_url_rule("/here", view_func=lambda: {"id": parent.enqueue(depth=0).id})
    with app.app_context():
        yield app
    app.extensions["jobserver"].broker.connection.close()


def test_the_request_id_reaches_all_jobs_that_it_sets_off(app: Flask, redis: Redis) -> None:
    client = app.test_client()
    headers = {"Authorization": f"Bearer {TOKEN}", "X-Request-Id": "req-77"}
    order = {"type": "test_trace.parent", "payload": {"depth": 1}}
    answer = client.post("/api/v1/jobs", json=order, headers=headers)
    assert answer.headers["X-Request-Id"] == "req-77"
    work("traced")
    assert list(seen.values()) == [["req-77"], ["req-77", "req-77"]], "a child, tried twice"
    for job_id in seen:
        shown = client.get(f"/api/v1/jobs/{job_id}", headers=headers).get_json()
        assert shown["trace"] == hash_of(redis, job_id)["trace"] == "req-77"
        assert events(redis, job_id)[0]["trace"] == "req-77"


def test_each_request_of_the_host_has_a_trace_of_its_own(app: Flask) -> None:
    client = app.test_client()
    first, second = (client.get("/here").get_json()["id"] for _ in range(2))
    work("traced")
    assert len({seen[first][0], seen[second][0], ""}) == 3
    odd = client.get("/here", headers={"X-Request-Id": "no spaces"}).get_json()["id"]
    work("traced")
    assert " " not in seen[odd][0]


def test_a_tick_is_the_trace_of_its_jobs(app: Flask, redis: Redis) -> None:
    scheduler = Scheduler(app.extensions["jobserver"])
    scheduler.entries.declare(scheduler.declared(), prune=True)
    tick = scheduler.entries.now() // 3_600_000 * 3_600_000
    redis.hset(state_key("ticking"), "tick", tick)
    redis.zadd(DUE, {"ticking": tick})
    (made,) = scheduler.enqueue_jobs()
    work("traced")
    assert list(seen) != [made]
    assert (
        {name for traces in seen.values() for name in traces}
        == {made}
        == {f"ticking-{tick // 1000}"}
    )


def test_a_run_that_follows_keeps_the_trace_of_who_asked_for_it(app: Flask, redis: Redis) -> None:
    single.enqueue(number=1)
    work("traced")
    first, second = seen["only-one"]
    assert first == second != ""
    assert events(redis, "only-one")[-1]["event"] == "completed"


def test_a_job_of_nobodys_request_begins_a_trace(app: Flask, redis: Redis) -> None:
    made = parent.enqueue(depth=1)
    assert "trace" not in hash_of(redis, made.id)
    work("traced")
    assert {name for traces in seen.values() for name in traces} == {made.run_id} == {made.trace}
    assert trace() == ""
