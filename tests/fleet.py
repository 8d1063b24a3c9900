"""Workers that a test stops and kills, and the account of what became of their jobs."""

from __future__ import annotations

import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from redis import Redis

from jobserver.broker import keys
from tests.load import Load, Run, put_back, runs, unsettled
from tests.nest import Nest

RECOVERY = 30  # seconds that a kill may take to be made good, whatever the lease
POISON = 3  # losses that are a job's own doing, after which it fails


@dataclass
class Fleet:
    """Workers by name; which jobs were held when one was killed is kept for the account."""

    nest: Nest
    redis: Redis
    log: Path
    settings: dict[str, str]
    workers: dict[str, psutil.Process] = field(default_factory=dict)
    killed: list[tuple[str, float]] = field(default_factory=list)  # a job and when, Unix seconds
    dead_children: set[int] = field(default_factory=set)
    count: int = 0

    def start(self, **settings: str) -> str:
        """Start one more worker; return its name."""
        self.count += 1
        name = f"w{self.count}"
        command = ("rq", "worker", "--name", name)
        self.workers[name] = self.nest.start(*command, log=self.log, **self.settings, **settings)
        return name

    def start_scheduler(self, **settings: str) -> str:
        """Start a scheduler process; return its name."""
        self.count += 1
        name = f"s{self.count}"
        command = ("flask", "--app", "tests.safety_app", "jobs", "scheduler")
        self.workers[name] = self.nest.start(*command, log=self.log, **self.settings, **settings)
        return name

    def held(self, name: str) -> list[str]:
        """Return the jobs that Redis takes a worker to run."""
        held = self.redis.hgetall(keys.HELD)
        its = [entry for entry, value in held.items() if value.split(b" ", 3)[3] == name.encode()]
        return [entry.decode().partition(":")[0] for entry in its]

    def kill(self, name: str) -> None:
        """Kill a worker that still lives, and note what it held."""
        worker = self.workers.pop(name)
        at = time.time()
        with suppress(psutil.NoSuchProcess):
            worker.kill()
        worker.wait(timeout=10)
        for _ in range(2):  # by then the server has read what the worker had sent
            self.redis.ping()
        self.killed += [(job, at) for job in self.held(name)]

    def kill_child(self, name: str) -> bool:
        """Kill a child of a worker in the midst of a job; return whether there was one."""
        losses = Counter(job for job, _ in self.killed)
        for child in self.workers[name].children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                child.suspend()
                run = None if child.pid in self.dead_children else unfinished(child.pid)
                if run and losses[run.job] < POISON - 1:
                    child.kill()
                    self.dead_children.add(child.pid)  # it can be seen until it has been reaped
                    self.killed.append((run.job, time.time()))
                    return True
                child.resume()
        return False

    def terminate(self, name: str) -> None:
        """Stop a worker as a supervisor does; wait for its end."""
        worker = self.workers.pop(name)
        worker.terminate()
        worker.wait(timeout=30)

    def account(self, load: Load, *, within: float = RECOVERY) -> str:
        """Assert what holds after the end of all jobs; return the figures."""
        journal = runs()
        wrong_places = unsettled(self.redis, load.ids)
        assert not wrong_places, wrong_places
        assert set(journal) == set(load.ids), "each ran"
        lost, returned = Counter(job for job, _ in self.killed), put_back(self.redis)
        too_many = {
            job: (len(found), lost[job], returned[job])
            for job, found in journal.items()
            if len(found) > 1 + lost[job] + returned[job]
        }
        assert not too_many, f"job: runs, kills, times put back: {too_many}"
        assert all(any(run.ended for run in found) for found in journal.values())
        wrong = {job: a for job, a in self._attempts(load).items() if a != 1 + lost[job]}
        assert not wrong, f"a kill, and nothing else, spends an attempt: {wrong}"
        slowest = max((_recovery(journal[job], at) for job, at in self.killed), default=0)
        assert slowest <= within, f"the slowest recovery took {slowest} s"
        reruns = sum(len(found) - 1 for found in journal.values())
        return (
            f"{len(load.ids)} jobs, {reruns} re-runs, {len(self.killed)} held at a kill, "
            f"{returned.total()} put back, slowest recovery {slowest:.1f} s"
        )

    def _attempts(self, load: Load) -> dict[str, int]:
        pipe = self.redis.pipeline(transaction=False)
        for job_id in load.ids:
            pipe.hget(keys.job(job_id), "attempt")
        return dict(zip(load.ids, map(int, pipe.execute()), strict=True))


def unfinished(pid: int) -> Run | None:
    """Return the run that a process is in the midst of, by the journal."""
    its = [run for found in runs().values() for run in found if run.pid == pid]
    last = max(its, key=lambda run: run.begun, default=None)
    return last if last and last.ended is None else None


def _recovery(found: list[Run], at: float) -> float:
    return min((run.begun for run in found if run.begun > at), default=float("inf")) - at
