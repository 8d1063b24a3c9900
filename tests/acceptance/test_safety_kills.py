"""Workers terminated and killed under load: nothing is lost, stranded or run more than it must."""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest
from redis import Redis

from jobserver import JobServer
from jobserver.broker import Broker, connect
from tests.acceptance.conftest import wait_until
from tests.load import Load, held_by, put_back, runs, unsettled
from tests.nest import Nest

RECOVERY = 30  # seconds that a kill may take to be made good, whatever the lease


@dataclass
class Fleet:
    """Workers by name; what was held when one was killed is kept for the account."""

    nest: Nest
    redis: Redis
    log: Path
    settings: dict[str, str]
    workers: dict[str, psutil.Process] = field(default_factory=dict)
    killed: list[tuple[str, float]] = field(default_factory=list)  # a job and when, Unix seconds
    count: int = 0

    def start(self) -> str:
        """Start one more worker; return its name."""
        self.count += 1
        name = f"w{self.count}"
        self.workers[name] = self.nest.start(
            "rq", "worker", "--name", name, log=self.log, **self.settings
        )
        return name

    def is_at_work(self, name: str) -> bool:
        """Return whether a worker holds jobs."""
        return bool(held_by(self.redis, name))

    def kill(self, name: str) -> None:
        """Kill a worker and note what it held."""
        worker = self.workers.pop(name)
        at = time.time()
        worker.kill()
        worker.wait(timeout=10)
        for _ in range(2):  # by then the server has read what the worker had sent
            self.redis.ping()
        self.killed += [(job, at) for job in held_by(self.redis, name)]

    def terminate(self, name: str) -> None:
        """Stop a worker as a supervisor does; wait for its end."""
        worker = self.workers.pop(name)
        worker.terminate()
        worker.wait(timeout=30)


@pytest.fixture
def broker(valkey: str) -> Iterator[Broker]:
    """A broker to enqueue with from another thread."""
    broker = Broker(connect(valkey))
    yield broker
    broker.connection.close()


@pytest.fixture
def fleet(server: JobServer, redis: Redis, tmp_path: Path) -> Iterator[Fleet]:
    """A fleet on the test's Valkey."""
    settings = {
        "JOBSERVER_APP": "tests.safety_app:create_app",
        "WORKER_CONCURRENCY": "4",
        "WORKER_PROCESSES": "2",
        "DRAIN_SECONDS": "1",
    }
    with Nest() as nest:
        yield Fleet(nest, redis, tmp_path / "workers.log", settings)


def await_notes(count: int) -> None:
    """Wait until jobs have written `count` more lines into the journal."""
    journal = Path(os.environ["JOURNAL"])
    journal.touch()
    line = 40  # bytes, about
    enough = journal.stat().st_size + count * line
    wait_until(lambda: journal.stat().st_size >= enough, what="jobs run")


def account(redis: Redis, load: Load, fleet: Fleet) -> str:
    """Assert what holds after all; return the figures."""
    wait_until(
        lambda: len(load.ids) == completed(redis),
        seconds=60,
        what="all jobs completed",
    )
    journal = runs()
    assert unsettled(redis, load.ids) == []
    assert set(journal) == set(load.ids), "each ran"
    lost, returned = Counter(job for job, _ in fleet.killed), put_back(redis)
    too_many = {
        job: (len(found), lost[job], returned[job])
        for job, found in journal.items()
        if len(found) > 1 + lost[job] + returned[job]
    }
    assert too_many == {}, "runs, kills, put back"
    assert all(any(run.ended for run in found) for found in journal.values())
    pipe = redis.pipeline(transaction=False)
    for job in load.ids:
        pipe.hget(f"rq:job:{job}", "attempt")
    attempts = dict(zip(load.ids, map(int, pipe.execute()), strict=True))
    wrong = {job: a for job, a in attempts.items() if a != 1 + lost[job]}
    assert wrong == {}, "only a kill spends an attempt"
    waits = [
        min((run.begun for run in journal[job] if run.begun > at), default=float("inf")) - at
        for job, at in fleet.killed
    ]
    slowest = max(waits, default=0)
    assert slowest <= RECOVERY
    reruns = sum(len(found) - 1 for found in journal.values())
    return (
        f"{len(load.ids)} jobs, {reruns} re-runs, {len(fleet.killed)} held at a kill, "
        f"{returned.total()} put back, slowest recovery {slowest:.1f} s"
    )


def completed(redis: Redis) -> int:
    """Return how many jobs have completed."""
    return sum(redis.zcard(f"rq:finished:{queue}") for queue in ("mail", "sync", "report"))


@pytest.mark.parametrize(
    ("rounds", "lease"),
    [(4, "2"), pytest.param(100, "15", marks=[pytest.mark.soak, pytest.mark.timeout(1800)])],
)
def test_terminations_and_kills_under_load_lose_nothing(
    redis: Redis, broker: Broker, fleet: Fleet, rounds: int, lease: str
) -> None:
    chance = random.Random(7)  # noqa: S311
    fleet.settings["LEASE_SECONDS"] = lease
    with Load(broker) as load:
        names = [fleet.start(), fleet.start()]
        for turn in range(2 * rounds):
            name = names.pop(0)
            wait_until(lambda name=name: fleet.is_at_work(name), what="it works")
            await_notes(chance.randrange(20))  # so that it is anywhere in its work
            _ = fleet.kill(name) if turn % 2 else fleet.terminate(name)
            names.append(fleet.start())
    print(f"{rounds} terminations, {rounds} kills:", account(redis, load, fleet))
