"""The worker processes that are timed, ours and stock RQ's, on one server."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from redis import Redis
from rq import Queue
from rq.serializers import JSONSerializer

from jobserver.errors import RedisUnavailable

BIN = Path(sys.executable).parent
PAYLOAD: dict[str, object] = {"a": 1, "b": "some text"}
STOCK_JOBS = 400


class Workers:
    """One server, its queues and its worker processes."""

    def __init__(self, url: str, directory: Path) -> None:
        os.environ.update(
            REDIS_URL=url,
            JOBSERVER_APP="benchmarks.app:create_app",
            JOBSERVER_INSTANCE=str(directory),
            RQ_CONNECTION_CLASS="jobserver.broker.Connection",
        )
        from benchmarks.app import create_app

        self.redis = Redis.from_url(url)
        self.log = directory / "worker.log"
        self.looks = 0
        self.cpu: list[float] = []  # seconds of the worker's own process per job, drain by drain
        self.server = create_app().extensions["jobserver"]

    def ours(self, name: str, jobs: int, *, threads: int = 10, processes: int = 2) -> float:
        """Return jobs per second, from the first claim to the last end, start-up not counted."""
        self.redis.flushall()
        queue = self.fill(name, jobs)
        with self.started([queue], threads=threads, processes=processes) as worker:
            before = _cpu(worker)
            seconds = self.drain(queue, jobs)
            self.cpu.append((_cpu(worker) - before) / jobs)
            return jobs / seconds

    def fill(self, name: str, jobs: int) -> str:
        """Let jobs of a type wait in its queue, which is paused; return the queue."""
        queue = self.server.registry.job_type(name).queue.name
        self.server.pause(queue)
        payload = {} if name == "tasks.nap" else PAYLOAD
        for start in range(0, jobs, 1000):
            calls = [f"{queue}-{number}" for number in range(start, min(start + 1000, jobs))]
            self.until(lambda calls=calls: self._enqueued(name, [payload] * len(calls), calls))
        return str(queue)

    def _enqueued(self, name: str, payloads: list[dict[str, object]], calls: list[str]) -> bool:
        # A server that rewrites the append-only file of a million jobs stands still for seconds.
        try:
            self.server.enqueue_many(name, payloads, calls=calls)
        except RedisUnavailable:
            return False
        return True

    @contextmanager
    def started(
        self, queues: list[str], *, threads: int = 10, processes: int = 2
    ) -> Iterator[psutil.Process]:
        """Run a worker of ours that is ready; yield its process."""
        settings = {"WORKER_CONCURRENCY": str(threads), "WORKER_PROCESSES": str(processes)}
        with self.worker("jobserver.worker.Worker", queues, settings) as process:
            self.until(lambda: self.redis.scard("rq:workers") == 1)
            yield process

    def drain(self, queue: str, jobs: int, *, pause: float = 0.005) -> float:
        """Let a queue go until that many jobs have completed; return the seconds.

        `pause` lies between two looks.
        """
        before = self.redis.zcard(f"rq:finished:{queue}")
        start = time.perf_counter()
        self.server.resume(queue)
        self.until(lambda: self.redis.zcard(f"rq:finished:{queue}") >= before + jobs, pause)
        return time.perf_counter() - start

    def stock(self) -> float:
        """Return jobs per second of SimpleWorker, the fastest that stock RQ has."""
        self.redis.flushall()
        self.redis.set("rq:suspended", 1)
        queue = Queue("bench", connection=self.redis, serializer=JSONSerializer)
        for _ in range(STOCK_JOBS):
            queue.enqueue("benchmarks.tasks.stock_noop", **PAYLOAD)
        self.redis.delete("rq:suspended")
        start = time.perf_counter()
        with self.worker("rq.SimpleWorker", ["-S", "json", "bench"], {}):
            self.until(lambda: self.redis.zcard("rq:finished:bench") >= 1)
            done, start = self.redis.zcard("rq:finished:bench"), time.perf_counter()
            self.until(lambda: self.redis.zcard("rq:finished:bench") == STOCK_JOBS)
            return (STOCK_JOBS - done) / (time.perf_counter() - start)

    def worker(self, name: str, arguments: list[str], settings: dict[str, str]) -> Stopped:
        with self.log.open("wb") as log:
            return Stopped(
                subprocess.Popen(
                    [str(BIN / "rq"), "worker", *arguments],
                    env={**os.environ, **settings, "RQ_WORKER_CLASS": name},
                    stdout=log,
                    stderr=log,
                )
            )

    def until(self, condition: Callable[[], bool], pause: float = 0.005) -> None:
        """Wait for a condition, with `pause` seconds between looks; `looks` counts them."""
        deadline = time.monotonic() + 120
        while not condition():
            if time.monotonic() > deadline:
                raise TimeoutError(self.log.read_text()[-2000:])
            self.looks += 1
            time.sleep(pause)


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


class Stopped:
    """A process that ends with its block."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    def __enter__(self) -> psutil.Process:
        return psutil.Process(self._process.pid)

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(timeout=30)
