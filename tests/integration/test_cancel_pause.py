"""Cancel and pause over random interleavings: what was promised once holds whatever comes after."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from redis import Redis

from jobserver import JobCanceled, Queue, Retention
from jobserver.broker import Broker, Claim, connect, keys
from jobserver.broker.exchange import OutcomeWord
from jobserver.errors import WrongState
from jobserver.progress import Reporter
from tests.hands import Hand, events, request_of

KEPT = Retention(completed_count=1000, failed_count=1000)
FREE = Queue("free", executor="thread", retention=KEPT)
SCARCE = Queue("scarce", executor="thread", global_concurrency=2, retention=KEPT)
QUEUES = {queue.name: queue for queue in (FREE, SCARCE)}
WORDS: tuple[OutcomeWord, ...] = (
    *("completed", "failed", "retry", "snooze", "release", "canceled"),
)

connection_of_the_session: list[Redis] = []

queues = st.sampled_from(sorted(QUEUES))


@dataclass
class Promise:
    """What a caller was promised about a job; `never_runs` from now on, unless it is retried."""

    queue: str
    never_runs: bool = False
    ends_canceled: bool = False


@dataclass
class Running:
    """A run and the worker that holds it."""

    hand: Hand
    claim: Claim
    is_lost: bool = False


@dataclass
class Paused:
    """A queue that is paused, and what ran of it when the pause returned."""

    running: set[str] = field(default_factory=set)


class Promises(RuleBasedStateMachine):
    """Workers, callers and running jobs take turns in any order; each step is one call."""

    @initialize()
    def start(self) -> None:
        self.redis = connection_of_the_session[0]
        self.redis.flushdb()
        self.broker = Broker(self.redis)
        served = list(QUEUES.values())
        # Names of their own, the same each time: what is drawn must not hang on them.
        self.hands = [Hand(self.broker, served, name=f"hand-{n}") for n in (1, 2)]
        self.jobs: dict[str, Promise] = {}
        self.running: dict[str, Running] = {}  # by execution
        self.paused: dict[str, Paused] = {}

    @rule(queue=queues, count=st.integers(1, 3), is_delayed=st.booleans(), data=st.data())
    def enqueue(self, queue: str, count: int, is_delayed: bool, data: st.DataObject) -> None:
        origins = st.sampled_from(QUEUES[queue].origins)
        due = "+3600000" if is_delayed else ""
        ids = [f"job-{len(self.jobs) + n}" for n in range(count)]
        self.broker.enqueue([request_of(i, queue=data.draw(origins), due=due) for i in ids])
        self.jobs |= {job_id: Promise(queue=queue) for job_id in ids}

    @rule(hand=st.integers(0, 1), room=st.integers(1, 4))
    def claim(self, hand: int, room: int) -> None:
        worker = self.hands[hand]
        for claim in worker.claim(threads=room):
            queue = claim.origin.partition(":")[0]
            assert queue not in self.paused, "nothing of a paused queue starts"
            assert not self.jobs[claim.id].never_runs, "what was canceled before never runs"
            assert not self.jobs[claim.id].ends_canceled, "nor once more"
            self.running[claim.exec] = Running(hand=worker, claim=claim)

    @precondition(lambda self: self.running)
    @rule(data=st.data(), word=st.sampled_from(WORDS))
    def end_one(self, data: st.DataObject, word: OutcomeWord) -> None:
        self.end(data.draw(st.sampled_from(sorted(self.running))), word)

    def end(self, exec: str, word: OutcomeWord) -> None:
        run = self.running.pop(exec)
        wait = 3600 if word in ("retry", "snooze") else 0
        answer = run.hand.end(run.claim, word, delay=wait, value=1)
        overruled = self.jobs[run.claim.id].ends_canceled and word != "canceled"
        assert answer == ("lost" if run.is_lost else "canceled" if overruled else "ok")
        if not run.is_lost and word == "canceled":
            self.jobs[run.claim.id].never_runs = True

    @precondition(lambda self: self.running)
    @rule(data=st.data(), asks=st.booleans())
    def say_or_ask(self, data: st.DataObject, asks: bool) -> None:
        run = self.running[data.draw(st.sampled_from(sorted(self.running)))]
        claim = run.claim

        def report(percent: float, message: str) -> str:
            return self.broker.progress(claim.id, claim.exec, percent=percent, message=message)

        reporter = Reporter(report, lambda: self.broker.standing(claim.id, claim.exec))
        if asks:
            told = reporter.stop_requested()
        else:
            try:
                reporter.say(50, "")
                told = False
            except JobCanceled:
                told = True
        assert told is (run.is_lost or self.jobs[claim.id].ends_canceled)

    @precondition(lambda self: self.jobs)
    @rule(data=st.data(), runs=st.booleans())
    def cancel(self, data: st.DataObject, runs: bool) -> None:
        ids = (
            [run.claim.id for run in self.running.values()] if runs and self.running else self.jobs
        )
        job_id = data.draw(st.sampled_from(sorted(ids)))
        try:
            answer = self.broker.cancel(job_id, retention=KEPT)
        except WrongState:
            assert self.broker.fetch(job_id).is_ended
            return
        promise = self.jobs[job_id]
        if answer == "asked":
            assert self.holder(job_id), "only what runs is asked"
            promise.ends_canceled = True
        else:
            promise.never_runs = True

    @precondition(lambda self: self.jobs)
    @rule(data=st.data())
    def retry(self, data: st.DataObject) -> None:
        job_id = data.draw(st.sampled_from(sorted(self.jobs)))
        if self.broker.retry([job_id], attempts=3) == ["retried"]:
            self.jobs[job_id] = Promise(queue=self.jobs[job_id].queue)

    @precondition(lambda self: self.jobs and not self.paused)
    @rule(queue=queues)
    def pause(self, queue: str) -> None:
        self.broker.pause(QUEUES[queue])
        self.paused[queue] = Paused(running=set(self.entries(queue)))

    @precondition(lambda self: self.paused)
    @rule(queue=queues)
    def resume(self, queue: str) -> None:
        self.broker.resume(QUEUES[queue])
        self.paused.pop(queue, None)

    @rule()
    def come_due(self) -> None:
        for queue in QUEUES.values():
            for origin in queue.origins:
                key = keys.registry("scheduled", origin)
                for job_id in self.redis.zrange(key, 0, -1):
                    self.redis.zadd(key, {job_id: 1})
        self.broker.promote(list(QUEUES.values()))

    @precondition(lambda self: any(not run.is_lost for run in self.running.values()))
    @rule(data=st.data())
    def lose(self, data: st.DataObject) -> None:
        """Let a lease run out; its worker knows nothing of that."""
        held = sorted(exec for exec, run in self.running.items() if not run.is_lost)
        run = self.running[data.draw(st.sampled_from(held))]
        self.redis.zadd(keys.LEASES, {run.claim.entry: 1}, xx=True)
        served = list(QUEUES.values())
        (recovery,) = self.broker.recover(served, interval=3600, lease=15)
        assert (recovery.outcome == "canceled") is self.jobs[run.claim.id].ends_canceled
        run.is_lost = True

    def holder(self, job_id: str) -> bool:
        return any(r.claim.id == job_id and not r.is_lost for r in self.running.values())

    def entries(self, queue: str) -> list[str]:
        origins = QUEUES[queue].origins
        found = [self.redis.zrange(keys.registry("wip", origin), 0, -1) for origin in origins]
        return [entry.decode() for entries in found for entry in entries]

    @invariant()
    def promises_are_kept(self) -> None:
        if not hasattr(self, "jobs"):
            return
        ids = list(self.jobs)
        for job_id, job in zip(ids, self.broker.fetch_many(ids), strict=True):
            promise = self.jobs[job_id]
            assert job is not None
            if promise.never_runs or (promise.ends_canceled and not self.holder(job_id)):
                assert (job.status, job.result) == ("canceled", None)
            else:
                assert (job.status == "active") is self.holder(job_id)
                assert job.status != "canceled"
        for queue, pause in self.paused.items():
            assert set(self.entries(queue)) <= pause.running
        assert len(self.entries("scarce")) <= 2

    def teardown(self) -> None:
        paused: set[str] = set()
        for event in events(self.redis) if hasattr(self, "redis") else ():
            if event["event"] in ("paused", "resumed"):
                _ = (paused.add if event["event"] == "paused" else paused.discard)(event["queue"])
            assert event["event"] != "claimed" or event["queue"].partition(":")[0] not in paused


@pytest.fixture
def machine(redis: Redis, valkey: str) -> Iterator[type[Promises]]:
    """The state machine, on this session's server."""
    connection_of_the_session[:] = [connect(valkey)]
    yield Promises
    connection_of_the_session.pop().close()


@pytest.mark.timeout(420)  # a failure is shrunk for up to five minutes
def test_cancel_and_pause_hold_over_random_interleavings(machine: type[Promises]) -> None:
    run_state_machine_as_test(machine, settings=settings(max_examples=60, stateful_step_count=50))


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_cancel_and_pause_hold_over_long_random_interleavings(machine: type[Promises]) -> None:
    run_state_machine_as_test(
        machine, settings=settings(max_examples=1000, stateful_step_count=100)
    )
