"""How fast workers drain queues: ours with events and a log line per job, against stock RQ."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from redis import Redis
from rq import Queue
from rq.serializers import JSONSerializer

from benchmarks.measure import Report, valkey

BIN = Path(sys.executable).parent
PAYLOAD: dict[str, object] = {"a": 1, "b": "some text"}
STOCK_JOBS = 400


def run(report: Report) -> None:
    """Measure no-op jobs in threads and processes, and sleeping ones."""
    with valkey() as url, tempfile.TemporaryDirectory() as directory:
        bench = _Bench(url, Path(directory))
        for slots, jobs, target in ((1, 3000, 10), (10, 10000, 25), (50, 20000, 45)):
            report.ratio(
                f"{slots} thread slots against SimpleWorker",
                lambda jobs=jobs, slots=slots: bench.ours("tasks.noop", jobs, threads=slots),
                bench.stock,
                at_least=target,
            )
        for children, jobs, target in ((2, 5000, 12), (10, 10000, 25)):
            report.ratio(
                f"{children} child processes against SimpleWorker",
                lambda jobs=jobs, n=children: bench.ours("tasks.noop_process", jobs, processes=n),
                bench.stock,
                at_least=target,
            )
        for slots, jobs in ((10, 1500), (50, 7500)):
            rate = bench.ours("tasks.nap", jobs, threads=slots)
            share = 100 * rate / (slots / 0.02)
            report.figure(
                f"20 ms jobs, {slots} slots", share, at_least=95, unit=" % of the ceiling"
            )


class _Bench:
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
        self.server = create_app().extensions["jobserver"]

    def ours(self, name: str, jobs: int, *, threads: int = 10, processes: int = 2) -> float:
        """Return jobs per second, from the first claim to the last end, start-up not counted."""
        self.redis.flushall()
        payload = {} if name == "tasks.nap" else PAYLOAD
        queue = self.server.registry.job_type(name).queue.name
        self.server.pause(queue)
        self.server.enqueue_many(name, [payload] * jobs)
        settings = {"WORKER_CONCURRENCY": str(threads), "WORKER_PROCESSES": str(processes)}
        with self._worker("jobserver.worker.Worker", [queue], settings):
            self._until(lambda: self.redis.scard("rq:workers") == 1)
            start = time.perf_counter()
            self.server.resume(queue)
            self._until(lambda: self.redis.zcard(f"rq:finished:{queue}") == jobs)
            return jobs / (time.perf_counter() - start)

    def stock(self) -> float:
        """Return jobs per second of SimpleWorker, the fastest that stock RQ has."""
        self.redis.flushall()
        self.redis.set("rq:suspended", 1)
        queue = Queue("bench", connection=self.redis, serializer=JSONSerializer)
        for _ in range(STOCK_JOBS):
            queue.enqueue("benchmarks.tasks.stock_noop", **PAYLOAD)
        self.redis.delete("rq:suspended")
        start = time.perf_counter()
        with self._worker("rq.SimpleWorker", ["-S", "json", "bench"], {}):
            self._until(lambda: self.redis.zcard("rq:finished:bench") >= 1)
            done, start = self.redis.zcard("rq:finished:bench"), time.perf_counter()
            self._until(lambda: self.redis.zcard("rq:finished:bench") == STOCK_JOBS)
            return (STOCK_JOBS - done) / (time.perf_counter() - start)

    def _worker(self, name: str, arguments: list[str], settings: dict[str, str]) -> _Stopped:
        with self.log.open("wb") as log:
            return _Stopped(
                subprocess.Popen(
                    [str(BIN / "rq"), "worker", *arguments],
                    env={**os.environ, **settings, "RQ_WORKER_CLASS": name},
                    stdout=log,
                    stderr=log,
                )
            )

    def _until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 120
        while not condition():
            if time.monotonic() > deadline:
                raise TimeoutError(self.log.read_text()[-2000:])
            time.sleep(0.005)


class _Stopped:
    """A process that ends with its block."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(timeout=30)
