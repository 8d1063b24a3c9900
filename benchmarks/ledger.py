"""The ledger: how fast runs are recorded, what that costs, and how workers fare beside it."""

from __future__ import annotations

import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Engine, func, select

from benchmarks.measure import Report, valkey
from benchmarks.workers import BIN, Stopped, Workers
from jobserver.ledger import migrate
from jobserver.ledger.models import position, runs
from jobserver.recorder import Recorder
from jobserver.server import Server
from tests import databases
from tests.hands import Hand

RUNS = 20_000
KINDS = ("postgresql", "sqlite")
RATES = {"postgresql": 5_000, "sqlite": 3_000}  # runs per second that are to be recorded
DRAINED = 10_000
TURNS = 3


def run(report: Report) -> None:
    """Record runs of one attempt in each database."""
    for kind in KINDS:
        with tempfile.TemporaryDirectory() as directory, database(kind, Path(directory)) as engine:
            _record(report, kind, engine)
            _drain(report, kind, engine)


@contextmanager
def database(kind: str, directory: Path) -> Iterator[Engine]:
    """Make an empty ledger: of `postgresql` or `sqlite`, as hosts have it."""
    if kind == "sqlite":
        engine = databases.host_engine(f"sqlite:///{directory / 'ledger.db'}")
        migrate(engine)
        yield engine
        engine.dispose()
        return
    with databases.postgresql(directory) as url:
        engine = databases.host_engine(url)
        migrate(engine)
        yield engine
        engine.dispose()


def _record(report: Report, kind: str, engine: Engine) -> None:
    with valkey() as url, tempfile.TemporaryDirectory() as instance:
        os.environ.update(REDIS_URL=url, JOBSERVER_INSTANCE=instance)
        from benchmarks.app import create_app

        server = create_app().extensions["jobserver"]
        recorder = Recorder(server, engine)
        _lead(server, RUNS)
        began, cpu = time.perf_counter(), time.process_time()
        recorder.work()
        took, cpu = time.perf_counter() - began, time.process_time() - cpu
        with engine.connect() as connection:
            assert connection.scalar(select(func.count()).select_from(runs)) == RUNS
        report.figure(f"runs recorded in {kind}", RUNS / took, at_least=RATES[kind], unit="/s")
        report.figure(f"recorder's CPU per run, {kind}", 1e6 * cpu / RUNS, at_most=150, unit=" µs")
        recorder.close()


def _lead(server: Server, jobs: int) -> None:
    """Lead jobs to their end, those of a worker with many slots."""
    queue = server.registry.job_type("tasks.noop").queue
    hand = Hand(server.broker, [queue])
    done = 0
    while done < jobs:
        server.enqueue_many("tasks.noop", [{"a": 1, "b": "some text"}] * 1000)
        for _ in range(10):
            claims = hand.claim(threads=100)
            hand.end_many([(claim, "completed") for claim in claims])
            done += len(claims)


def _drain(report: Report, kind: str, engine: Engine) -> None:
    """Drain with a recorder beside the worker and without, in turns."""
    url = engine.url.render_as_string(hide_password=False)
    with valkey() as redis_url, tempfile.TemporaryDirectory() as instance:
        workers = Workers(redis_url, Path(instance))
        alone, beside, behind = [], [], []
        for _ in range(TURNS):
            alone.append(workers.ours("tasks.noop", DRAINED))
            workers.redis.flushall()
            with _scheduler(url, workers.log):
                queue = workers.fill("tasks.noop", DRAINED)
                _await(workers, engine)
                with workers.started([queue]):
                    beside.append(DRAINED / workers.drain(queue, DRAINED))
                    began = time.perf_counter()
                    _await(workers, engine)
                    behind.append(time.perf_counter() - began)
        with engine.connect() as connection:
            completed = select(func.count()).select_from(runs).where(runs.c.state == "completed")
            assert connection.scalar(completed) == RUNS + TURNS * DRAINED, "none is lost"
    names = f"{statistics.median(alone):,.0f}/s alone"
    report.figure(
        f"drain, 10 slots, recorder of {kind} beside ({names})",
        statistics.median(beside),
        at_least=0.5 * statistics.median(alone),
        unit="/s",
    )
    name = f"then the ledger is complete after, {kind}"
    report.figure(name, statistics.median(behind), at_most=5, unit=" s")


@contextmanager
def _scheduler(url: str, log: Path) -> Iterator[None]:
    command = [str(BIN / "flask"), "--app", "benchmarks.app:create_app", "jobs", "scheduler"]
    settings = {**os.environ, "BENCH_LEDGER": url}
    with log.open("ab") as output:
        process = subprocess.Popen(command, env=settings, stdout=output, stderr=output)
    with Stopped(process):
        yield


def _await(workers: Workers, engine: Engine) -> None:
    """Wait until all events are recorded."""
    last = workers.redis.xinfo_stream("jobserver:events")["last-generated-id"].decode()

    def is_recorded() -> bool:
        with engine.connect() as connection:
            found = connection.scalar(select(position.c.position))
        return found == last

    workers.until(is_recorded, pause=0.1)
