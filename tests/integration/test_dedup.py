"""Many processes and few keys: one active job per key, one end per run, and no run lost."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path

import pytest
from redis import Redis

from jobserver import JobServer
from jobserver.broker import Broker, Claim, connect, keys
from tests.engine_jobs import THREADS
from tests.hands import Hand, events, places

ROOT = Path(__file__).parents[2]
ENDS = {"completed", "canceled"}


def finally_ended(event: dict[str, str]) -> bool:
    """Whether an event is the end of its run."""
    return event["event"] in ENDS or (event["event"] == "failed" and not event["retry_at"])


class Chaos:
    """A worker that claims, ends, loses and forgets runs at random, until told to drain."""

    def __init__(self, url: str, redis: Redis, seed: int) -> None:
        self.broker = Broker(connect(url, timeout=5))
        self.redis = redis
        self.draw = random.Random(seed)  # noqa: S311 (no secret)
        self.hand = Hand(self.broker, [THREADS])
        self.drains = threading.Event()
        self.given_up: list[Claim] = []
        self.recorded: Counter[str] = Counter()
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        try:
            while not self._is_done():
                self.step()
        except BaseException as error:
            self.error = error

    def _is_done(self) -> bool:
        counts = self.broker.counts([THREADS])["in-threads"]
        is_idle = counts["waiting"] + counts["active"] + counts["delayed"] == 0
        return self.drains.is_set() and is_idle

    def step(self) -> None:
        """Do one thing that a worker or its fate does."""
        self.broker.promote([THREADS])
        for claim in list(self.hand.held.values()):
            fate = self.draw.random()
            if fate < 0.1:  # its worker dies, or seems to: it will hand in its end too late
                del self.hand.held[claim.exec]
                self.given_up.append(claim)
                self.redis.zadd(keys.LEASES, {claim.entry: 1}, xx=True)
            elif fate < 0.15:
                self.broker.cancel(claim.id, retention=THREADS.retention)
            elif fate < 0.9:
                self._end(claim)
        self.broker.recover([THREADS], interval=60, lease=15)
        for claim in self.given_up[:-3]:
            assert self._end(claim) == "lost"
        del self.given_up[:-3]
        self.hand.claim(threads=self.draw.randrange(6))
        if self.draw.random() < 0.3:
            self.hand.claim(threads=3, repeat=True, knows=self.hand.held.values())

    def _end(self, claim: Claim) -> str:
        word = self.draw.choice(("completed", "completed", "retry", "failed", "snooze", "release"))
        if word == "retry" and claim.attempt == claim.attempts:
            word = "failed"
        answer = self.hand.end(claim, word, value=1, delay=0)
        if answer == "ok":
            self.recorded[claim.exec] += 1
            assert self.hand.end(claim, word, value=1) == "recorded"
        return answer


@pytest.mark.parametrize(
    ("processes", "rounds"),
    [(16, 200), pytest.param(16, 5000, marks=[pytest.mark.soak, pytest.mark.timeout(1800)])],
)
def test_many_processes_make_one_active_job_per_key(
    server: JobServer, redis: Redis, valkey: str, tmp_path: Path, processes: int, rounds: int
) -> None:
    answers = tmp_path / "answers"
    answers.mkdir()
    chaos = Chaos(valkey, redis, seed=rounds)
    chaos.thread.start()
    enqueuers = subprocess.Popen(
        [sys.executable, "-m", "tests.enqueuer", str(answers), str(processes), str(rounds)],
        cwd=ROOT,
        env=os.environ,
        start_new_session=True,
    )
    try:
        watch(redis, lambda: enqueuers.poll() is not None)
    finally:
        if enqueuers.poll() is None:
            os.killpg(enqueuers.pid, signal.SIGKILL)
        enqueuers.wait()
        chaos.drains.set()
        chaos.thread.join()
        chaos.broker.connection.close()
    assert chaos.error is None, chaos.error
    assert enqueuers.returncode == 0
    told = [[line.split() for line in path.read_text().splitlines()] for path in answers.iterdir()]
    assert len(told) == processes
    check(told, events(redis), chaos)
    assert not redis.exists(keys.LEASES)
    assert redis.keys("rq:wip:*") == redis.keys(keys.HELD) == []


def watch(redis: Redis, is_over: Callable[[], bool]) -> None:
    """Look at the keys while all is in motion: each job is in one place at every moment."""
    everything = """
    local found = {}
    for _, key in ipairs(redis.call('KEYS', ARGV[1] .. '*:in-threads*')) do
        local kind = redis.call('TYPE', key).ok
        local command = kind == 'list' and 'LRANGE' or 'ZRANGE'
        local ids = redis.call(command, key, 0, -1)
        for _, entry in ipairs(ids) do found[#found + 1] = string.match(entry, '^[^:]*') end
    end
    return found
    """
    while not is_over():
        where = Counter(redis.eval(everything, 0, keys.RQ))
        assert max(where.values(), default=0) <= 1, where


def check(told: list[list[list[str]]], events: list[dict[str, str]], chaos: Chaos) -> None:
    """Compare what each process was told with what the events tell."""
    answers = [answer for process in told for answer in process]
    assert Counter(word for word, *_ in answers).keys() == {"new", "duplicate", "rerun"}

    stories: dict[str, list[dict[str, str]]] = defaultdict(list)
    for event in events:
        stories[event["run"]].append(event)
    promised = {run for word, _, run, _ in answers if word in ("new", "rerun")}
    assert {run for _, _, run, _ in answers} == promised, "a duplicate is of a promised run"
    assert set(stories) == promised, "each promised run happened, and no other one"
    for run, story in stories.items():
        assert [finally_ended(event) for event in story] == [False] * (len(story) - 1) + [True], run
        assert story[0]["event"] in ("queued", "delayed"), run

    active: dict[str, str] = {}
    payloads: dict[str, str] = {}
    for event in events:
        job = event["job"]
        assert active.setdefault(job, event["run"]) == event["run"], "two runs of a key at a time"
        payloads[job] = event.get("payload") or payloads[job]
        if finally_ended(event):
            del active[job]
    assert active == {}
    assert set(chaos.recorded.values()) == {1}, "each execution ended once"

    # Of the updates to a job that must not lose any, the very last is one process's last.
    for job in {job_id for _, job_id, _, _ in answers if job_id.startswith("rerun-")}:
        last = [
            next((value for _, job_id, _, value in reversed(process) if job_id == job), None)
            for process in told
        ]
        assert any(f'"value":{value}}}' in payloads[job] for value in last), (job, last)


def test_the_same_call_from_many_threads_is_one_job(server: JobServer, redis: Redis) -> None:
    barrier = threading.Barrier(10)
    runs: list[str] = []

    def enqueue() -> None:
        barrier.wait()
        runs.append(server.enqueue("engine_jobs.add", {"a": 1}, call="one").run_id)

    threads = [threading.Thread(target=enqueue) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(runs) == 10
    assert len(set(runs)) == 1
    assert places(redis, "one") == ["queue:in-threads"]
