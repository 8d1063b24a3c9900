"""What requests cost: statistics over many jobs."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from flask.testing import FlaskClient

from benchmarks import watching
from benchmarks.measure import Report, valkey
from jobs.application import create_app
from jobs.settings import Settings
from jobserver.broker import keys
from jobserver.broker.connection import sibling
from jobserver.server import Server

TOKEN = "the-token-of-the-benchmarks"
CHUNK = 10_000
REQUESTS = 400


def run(report: Report) -> None:
    """Run all benchmarks of the HTTP layer."""
    count_many_jobs(report)
    watching.run(report)


def count_many_jobs(report: Report) -> None:
    """Ask for the statistics of all queues in turns, with 1,000 and with 1,000,000 jobs kept."""
    with application(jobs=1_000) as few, application(jobs=1_000_000) as many:
        for client in (few, many):
            _ask(client)  # connects, and loads the scripts
        pairs = [(_ask(few), _ask(many)) for _ in range(REQUESTS)]
    took_few, took_many = (statistics.median(pair[side] for pair in pairs) for side in (0, 1))
    report.figure("statistics of 1,000 jobs", took_few * 1000, at_most=50, unit=" ms")
    report.figure(
        "statistics of 1,000,000 jobs, in times of 1,000", took_many / took_few, at_most=1.2
    )


@contextmanager
def application(*, jobs: int) -> Iterator[FlaskClient]:
    """Serve the application with so many jobs in a Valkey of its own, half of them delayed."""
    with tempfile.TemporaryDirectory() as instance, valkey() as url:
        settings = Settings(instance_path=Path(instance), redis_url=url, admin_token=TOKEN)
        app = create_app(settings)
        with app.app_context():
            _fill(app.extensions["jobserver"], jobs=jobs)
        client = app.test_client()
        client.environ_base["HTTP_AUTHORIZATION"] = f"Bearer {TOKEN}"
        yield client


def _fill(server: Server, *, jobs: int) -> None:
    """Make one job, and then copies of it: a million enqueues would take minutes."""
    first = server.enqueue("follows.sync_products", {"follow_id": 1})
    redis = sibling(server.broker.connection, timeout=60)
    for start in range(1, jobs, CHUNK):
        ids = [f"follow-{n + 1}" for n in range(start, min(start + CHUNK, jobs))]
        pipe = redis.pipeline(transaction=False)
        for job_id in ids:
            pipe.copy(keys.job(first.id), keys.job(job_id))
        half = len(ids) // 2
        pipe.rpush(keys.waiting(first.queue), *ids[half:])
        if half:
            delayed = dict.fromkeys(ids[:half], time.time() + 3600)
            pipe.zadd(keys.registry("scheduled", first.queue), delayed)
        pipe.execute()
    redis.close()
    counts = server.counts()[first.queue]
    assert counts["waiting"] + counts["delayed"] == jobs, counts


def _ask(client: FlaskClient) -> float:
    began = time.perf_counter()
    response = client.get("/api/v1/queues/stats")
    took = time.perf_counter() - began
    assert response.status_code == 200, response.text
    return took
