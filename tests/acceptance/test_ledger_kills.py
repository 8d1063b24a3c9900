"""Whatever is killed while jobs of all kinds run, ledger and Redis agree, attempt by attempt."""

from __future__ import annotations

import random
import subprocess
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil
import pytest
from redis import Redis
from sqlalchemy import Engine, create_engine, select
from sqlalchemy.exc import OperationalError

from jobserver.broker import keys
from jobserver.ledger import migrate
from jobserver.ledger.models import attempts, position, runs
from tests.acceptance.conftest import ROOT, wait_until
from tests.databases import get_server
from tests.ledger_app import COUNT
from tests.nest import Nest

SOAK = [pytest.mark.soak, pytest.mark.timeout(1800)]
CLOCKS = 0.25  # seconds: a script reads the server's clock a moment before it writes the event
QUEUES = [f"{queue}{level}" for queue in ("swift", "apart") for level in (":high", "", ":low")]
STATES = {"finished": "completed", "failed": "failed", "canceled": "canceled"}


class PostgreSQL:
    """A server of its own, which can be killed and comes back with its data."""

    def __init__(self, directory: Path) -> None:
        self._server = get_server(directory, start=False)
        self._thread: threading.Thread | None = None
        self._server.start()
        self.url = self._server.get_uri(driver="psycopg")

    def kill(self) -> None:
        """Kill all its processes; it is started again meanwhile."""
        self._await()
        first = psutil.Process(self._server.get_pid())
        processes = [first, *first.children(recursive=True)]
        for process in processes:
            process.kill()
        psutil.wait_procs(processes, timeout=10)
        self._thread = threading.Thread(target=wait_until, args=(self._starts,))
        self._thread.start()

    def close(self) -> None:
        """Stop it for good."""
        self._await()
        self._server.cleanup()

    def _starts(self) -> bool:
        # A backend that was forked in the last moment holds the memory until it notices.
        try:
            self._server.ensure_postgres_running()
        except subprocess.SubprocessError:
            return False
        return True

    def _await(self) -> None:
        if self._thread:
            self._thread.join()


@dataclass
class Witness:
    """Reads the events beside the recorder, by itself, and keeps them all."""

    redis: Redis
    events: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    position: str = "0-0"

    def __enter__(self) -> Witness:
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._follow)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()

    def _follow(self) -> None:
        while not self._is_over.is_set():
            for _, entries in self.redis.xread({keys.EVENTS: self.position}, count=5000, block=50):
                for entry_id, fields in entries:
                    told = {name.decode(): value.decode() for name, value in fields.items()}
                    self.position = entry_id.decode()
                    self.events.append((self.position, told))

    def runs(self) -> dict[str, list[dict[str, str]]]:
        """Return what happened, by run."""
        found: defaultdict[str, list[dict[str, str]]] = defaultdict(list)
        for _, told in self.events:
            if told["run"]:
                found[told["run"]].append(told)
        return dict(found)


@dataclass
class Town:
    """Web, workers and scheduler, each of which may be killed; another one comes in its place."""

    nest: Nest
    log: Path
    jobs: int
    living: dict[str, psutil.Process] = field(default_factory=dict)
    seed: int = 0

    def start(self, role: str) -> None:
        """Start one process of a role: web, scheduler, worker-1, …"""
        self.seed += 1
        flask = ("flask", "--app", "tests.ledger_app")
        command = {
            "web": (*flask, "load", str(self.jobs), str(self.seed)),
            "scheduler": (*flask, "jobs", "scheduler"),
        }.get(role, ("rq", "worker", "--name", f"{role}-{self.seed}"))
        self.living[role] = self.nest.start(*command, log=self.log)

    def kill(self, role: str) -> None:
        """Kill a process and its children; start another one."""
        process = self.living.pop(role)
        if process.is_running():
            process.kill()
        self.start(role)


@pytest.fixture
def database(
    kind: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, PostgreSQL | None]]:
    """The URL of a migrated database, and what can be killed of it."""
    directory = tmp_path_factory.mktemp("ledger")
    postgresql = PostgreSQL(directory) if kind == "postgresql" else None
    url = postgresql.url if postgresql else f"sqlite:///{directory / 'ledger.db'}"
    engine = create_engine(url)
    migrate(engine)
    engine.dispose()
    yield url, postgresql
    if postgresql:
        postgresql.close()


@pytest.fixture
def town(
    redis: Redis,
    valkey: str,
    nest: Nest,
    database: tuple[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Town:
    settings = {
        "REDIS_URL": valkey,
        "DATABASE_URL": database[0],
        "JOBSERVER_APP": "tests.ledger_app:create_app",
        "JOBSERVER_INSTANCE": str(tmp_path),
        "RQ_WORKER_CLASS": "jobserver.worker.Worker",
        "RQ_CONNECTION_CLASS": "jobserver.broker.Connection",
        "PYTHONPATH": str(ROOT),
        "LEASE_SECONDS": "2",
        "WORKER_CONCURRENCY": "8",
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    return Town(nest, tmp_path / "log", jobs=0)


@pytest.mark.parametrize(
    ("kind", "jobs", "kills"),
    [
        ("postgresql", 2_000, 12),
        ("sqlite", 500, 6),
        pytest.param("postgresql", 20_000, 100, marks=SOAK),
        pytest.param("sqlite", 20_000, 100, marks=SOAK),
    ],
)
def test_ledger_and_redis_agree_whatever_is_killed(
    town: Town, redis: Redis, database: tuple[str, PostgreSQL | None], jobs: int, kills: int
) -> None:
    url, postgresql = database
    chance = random.Random(7)  # noqa: S311  # nothing secret: it repeats the same kills
    town.jobs = jobs
    victims: list[Callable[[], None]] = [
        lambda: town.kill("web"),
        lambda: town.kill("scheduler"),
        lambda: town.kill("worker-1"),
        lambda: town.kill("worker-2"),
    ]
    if postgresql:
        victims.append(postgresql.kill)
    with Witness(redis) as witness:
        for role in ("scheduler", "worker-1", "worker-2", "web"):
            town.start(role)
        for turn in range(1, kills + 1):
            wait_until(
                lambda turn=turn: int(redis.get(COUNT) or 0) >= turn * jobs // (kills + 1),
                seconds=60,
                what="jobs are enqueued",
            )
            if turn % len(victims) == 1:
                chance.shuffle(victims)
            victims[turn % len(victims)]()
        wait_until(lambda: int(redis.get(COUNT) or 0) > jobs, seconds=60 + jobs / 50)
        wait_until(lambda: is_idle(redis), seconds=60 + jobs / 50, what="all jobs end")
        engine = create_engine(url)
        wait_until(lambda: is_recorded(redis, engine), seconds=30, what="all is recorded")
        wait_until(lambda: witness.position == last_event(redis), what="the witness has seen all")
    told = witness.runs()
    with engine.connect() as connection:
        ledger = {row["run"]: row for row in connection.execute(select(runs)).mappings()}
        query = select(attempts).order_by(attempts.c.run, attempts.c.number)
        spent = defaultdict(list)
        for row in connection.execute(query).mappings():
            spent[row["run"]].append(row)
    engine.dispose()
    assert set(ledger) == set(told), "every run, and no other"
    assert len(ledger) >= jobs * 0.9
    wrong = {
        run: (mine, its)
        for run, events in told.items()
        if (mine := [(row["number"], row["outcome"]) for row in spent[run]])
        != (its := ends(events))
    }
    assert not wrong, f"attempts by the ledger, and by the events: {wrong}"
    assert not (wrong := disagreements(redis, ledger, spent)), wrong
    outcomes = {row["outcome"] for rows in spent.values() for row in rows}
    assert outcomes == {"completed", "failed", "retried", "lost", "canceled"}
    died = [row for rows in spent.values() for row in rows if row["exit_reason"]]
    assert "killed by SIGSEGV" in {row["exit_reason"] for row in died}
    assert all(row["peak_rss"] > 2**20 for row in died)
    print(f"{len(ledger)} runs, {sum(map(len, spent.values()))} attempts, {kills} kills")


def is_idle(redis: Redis) -> bool:
    """Return whether nothing waits, runs or is delayed."""
    pipe = redis.pipeline(transaction=False)
    for origin in QUEUES:
        pipe.llen(keys.waiting(origin))
        for name in ("wip", "scheduled"):
            pipe.zcard(keys.registry(name, origin))
    return not any(pipe.execute())


def last_event(redis: Redis) -> str:
    """Return the id of the newest event."""
    return str(redis.xinfo_stream(keys.EVENTS)["last-generated-id"].decode())


def is_recorded(redis: Redis, engine: Engine) -> bool:
    """Return whether the ledger has the newest event."""
    try:
        with engine.connect() as connection:
            return connection.scalar(select(position.c.position)) == last_event(redis)
    except OperationalError:  # it was killed, and is starting
        return False


def ends(events: list[dict[str, str]]) -> list[tuple[int, str]]:
    """Return the spent attempts of a run and their outcomes, by its events alone."""
    found = []
    for told in events:
        number, name = int(told.get("attempt", 0)), told["event"]
        if name == "stalled":
            found.append((number, "lost"))
        elif "ms" in told and name in ("completed", "failed", "canceled"):
            outcome = "retried" if told.get("retry_at") else name
            if (number, outcome) != (1, "completed"):
                found.append((number, outcome))
    return found


def disagreements(redis: Redis, ledger: dict[str, Any], spent: dict[str, Any]) -> list[str]:
    """Say where the ledger is not as Redis, for every job that Redis still has."""
    found = []
    names = [key.decode() for key in redis.scan_iter("rq:job:*", count=1000)]
    pipe = redis.pipeline(transaction=False)
    for name in names:
        pipe.hgetall(name)
        pipe.xrange(keys.results(name.removeprefix("rq:job:")))
    answers = pipe.execute()
    for name, raw, results in zip(names, answers[::2], answers[1::2], strict=True):
        job = {field.decode(): value.decode() for field, value in raw.items()}
        row = ledger[job["run"]]
        known = {
            "state": STATES[job["status"]],
            "attempt": int(job["attempt"]),
            "attempts": int(job["attempts"]),
            "type": job["type"],
        }
        if job["status"] == "failed":
            known |= {"error_type": job["error_type"], "error_message": job["error_message"]}
        if job["attempt"] != "0":
            known["worker"] = job["worker_name"]
        found += [
            f"{name} {field}: {row[field]!r}, in Redis {value!r}"
            for field, value in known.items()
            if row[field] != value
        ]
        ended = row["ended_at"].isoformat()
        if abs(seconds(ended) - seconds(job["ended_at"])) > CLOCKS:
            found.append(f"{name} ended {ended}, in Redis {job['ended_at']}")
        # Canceled runs leave no result there; of many it keeps ten.
        kinds = ["completed" if r[b"type"] == b"1" else "failed" for _, r in results]
        mine = [
            "completed" if a["outcome"] == "completed" else "failed"
            for a in spent[job["run"]]
            if a["outcome"] != "canceled"
        ]
        if row["state"] == "completed" and row["attempt"] == 1:
            mine.append("completed")
        if kinds != mine[-10:]:
            found.append(f"{name} attempts {mine}, in Redis {kinds}")
        starts = [a["started_at"] for a in spent[job["run"]]]
        if starts != sorted(starts):
            found.append(f"{name}: attempts out of order: {starts}")
    return found


def seconds(moment: str) -> float:
    """Return the Unix time of an ISO 8601 text."""
    return datetime.fromisoformat(moment).timestamp()
