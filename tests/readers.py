"""Eight processes that read, in a loop, what stock RQ has to read: `python -m tests.readers URL`.

It leads a process group of its own. Each round of one adds a byte to the file that ROUNDS names; an
error of RQ's ends them all.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from io import StringIO

import rq.cli
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from rq import Queue, Worker
from rq.job import Job
from rq.registry import (
    CanceledJobRegistry,
    DeferredJobRegistry,
    FailedJobRegistry,
    FinishedJobRegistry,
    ScheduledJobRegistry,
    StartedJobRegistry,
)
from rq.serializers import JSONSerializer

from tests.load import QUEUES

REGISTRIES = (
    CanceledJobRegistry,
    DeferredJobRegistry,
    FailedJobRegistry,
    FinishedJobRegistry,
    ScheduledJobRegistry,
    StartedJobRegistry,
)


def counts(redis: Redis) -> None:
    """Read the counts of queues and registries; each cleans up before it counts."""
    for name in QUEUES:
        _ = Queue(name, connection=redis, serializer=JSONSerializer).count
        for registry in REGISTRIES:
            _ = registry(name, connection=redis, serializer=JSONSerializer).count


def jobs(redis: Redis) -> None:
    """Read workers and running jobs."""
    for worker in Worker.all(connection=redis, serializer=JSONSerializer):
        worker.get_current_job()
    for name in QUEUES:
        started = StartedJobRegistry(name, connection=redis, serializer=JSONSerializer)
        Job.fetch_many(started.get_job_ids()[:20], connection=redis, serializer=JSONSerializer)


def info(redis: Redis) -> None:
    """Run `rq info`."""
    url = sys.argv[1]
    with redirect_stdout(StringIO()):
        rq.cli.main(args=["info", "--url", url], standalone_mode=False)


def loop(read: Callable[[Redis], None], redis: Redis) -> None:
    """Read for ever, but for a moment after each round: the processors are for the workers."""
    rounds = os.open(os.environ["ROUNDS"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    while True:
        try:
            read(redis)
            os.write(rounds, b".")
        except (RedisConnectionError, RedisTimeoutError, SystemExit):  # `rq info` exits without it
            pass
        time.sleep(0.05)


def main() -> None:
    """Start them all; end with the first that ends."""
    kinds = [counts, counts, counts, counts, jobs, jobs, info, info]
    for read in kinds:
        if os.fork() == 0:
            loop(read, Redis.from_url(sys.argv[1], socket_timeout=5))
    os.wait()
    os.killpg(0, 9)


if __name__ == "__main__":
    main()
