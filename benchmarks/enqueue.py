"""How fast jobs are enqueued: ours with validation and events, against stock RQ with JSON."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from redis import Redis
from rq import Queue
from rq.serializers import JSONSerializer

from benchmarks.measure import Report, valkey

SINGLE = 2000
BULK = 1000
ROUNDS = 5  # bulks per figure

PAYLOAD: dict[str, object] = {"a": 1, "b": "some text"}


def run(report: Report) -> None:
    """Measure single and bulk enqueues."""
    with valkey() as url:
        os.environ["REDIS_URL"] = url
        from benchmarks.app import create_app

        redis = Redis.from_url(url)
        stock = Queue("bench", connection=redis, serializer=JSONSerializer)
        app = create_app()
        server = app.extensions["jobserver"]

        def rate(count: int, work: Callable[[], object]) -> float:
            redis.flushall()
            start = time.perf_counter()
            work()
            return count / (time.perf_counter() - start)

        def ours_single() -> None:
            for _ in range(SINGLE):
                server.enqueue("tasks.noop", PAYLOAD)

        def stock_single() -> None:
            for _ in range(SINGLE):
                stock.enqueue("benchmarks.tasks.stock_noop", **PAYLOAD)

        def ours_bulk() -> None:
            for _ in range(ROUNDS):
                server.enqueue_many("tasks.noop", [PAYLOAD] * BULK)

        def stock_bulk() -> None:
            for _ in range(ROUNDS):
                data = [
                    Queue.prepare_data("benchmarks.tasks.stock_noop", kwargs=dict(PAYLOAD))
                    for _ in range(BULK)
                ]
                stock.enqueue_many(data)

        report.ratio(
            "single enqueues",
            lambda: rate(SINGLE, ours_single),
            lambda: rate(SINGLE, stock_single),
            at_least=1.5,
        )
        report.ratio(
            "bulk of 1,000",
            lambda: rate(BULK * ROUNDS, ours_bulk),
            lambda: rate(BULK * ROUNDS, stock_bulk),
            at_least=1.2,
        )
