"""The scripts against a small model in Python: random sequences, compared after each step.

Issue B, point 11: every job is in exactly one place, and RQ's own reading agrees.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from hypothesis import Phase, settings
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
from rq import Queue as RQQueue
from rq.exceptions import NoSuchJobError
from rq.job import Job as RQJob
from rq.registry import (
    CanceledJobRegistry,
    DeferredJobRegistry,
    FailedJobRegistry,
    FinishedJobRegistry,
    ScheduledJobRegistry,
    StartedJobRegistry,
)
from rq.serializers import JSONSerializer

from jobserver import Queue, Retention
from jobserver.broker import Broker, Claim, EnqueueRequest, connect, keys
from jobserver.broker.exchange import OutcomeWord
from jobserver.broker.job import STATUSES
from jobserver.errors import JobNotFound, WrongState
from tests.hands import Hand, request_of

KEEP = 1
Q = Queue("q", executor="thread", retention=Retention(completed_count=KEEP, failed_count=KEEP))
IDS = ("a", "b", "c", "d")
WORDS: tuple[OutcomeWord, ...] = (
    *("completed", "failed", "retry", "snooze", "release", "canceled"),
)
COME_BACK: tuple[OutcomeWord, ...] = ("retry", "snooze", "release")
REGISTRIES = {
    "finished": FinishedJobRegistry,
    "failed": FailedJobRegistry,
    "canceled": CanceledJobRegistry,
    "scheduled": ScheduledJobRegistry,
    "deferred": DeferredJobRegistry,
}
PLACE = {"queued": "queue", "started": "wip"}  # the others are called as their status

redis_of_the_session: list[Redis] = []

ids = st.sampled_from(IDS)
hands = st.integers(0, 1)
words = st.sampled_from(WORDS)


@dataclass
class Modelled:
    """A job as it should be."""

    request: EnqueueRequest
    run: str
    status: str
    attempt: int = 0
    attempts: int = 3
    exec: str = ""
    last: str = ""
    is_canceled: bool = False
    noted: EnqueueRequest | None = None
    history: int = 0
    percent: float = 0
    crashes: int = 0
    shared: str = ""  # the exec that was not alone on its lost worker

    @property
    def origin(self) -> str:
        return self.request.origin

    @property
    def is_active(self) -> bool:
        return self.status in ("queued", "scheduled", "started")


@dataclass
class Model:
    """The whole server as it should be."""

    jobs: dict[str, Modelled] = field(default_factory=dict)
    lists: dict[str, list[str]] = field(default_factory=lambda: {o: [] for o in Q.origins})
    ended: dict[str, list[str]] = field(
        default_factory=lambda: {"finished": [], "failed": [], "canceled": []}
    )
    calls: dict[str, tuple[str, str]] = field(default_factory=dict)
    is_paused: bool = False
    events: list[tuple[str, str, str]] = field(default_factory=list)

    def tell(self, name: str, job_id: str = "") -> None:
        run = self.jobs[job_id].run if job_id else ""
        self.events.append((name, job_id, run))

    def create(self, request: EnqueueRequest, *, last: str = "") -> None:
        job = Modelled(request, request.run, "scheduled" if request.due else "queued", last=last)
        self.jobs[request.id] = job
        if job.status == "queued":
            self.push(request.id)
        self.tell("delayed" if request.due else "queued", request.id)

    def push(self, job_id: str, *, is_first: bool = False) -> None:
        job = self.jobs[job_id]
        job.status, job.exec = "queued", ""
        waiting = self.lists[job.origin]
        waiting.insert(0 if is_first else len(waiting), job_id)

    def leave(self, job_id: str) -> None:
        """Take a job out of its list or registry."""
        for entries in (*self.lists.values(), *self.ended.values()):
            if job_id in entries:
                entries.remove(job_id)

    def forget(self, job_id: str) -> None:
        self.leave(job_id)
        del self.jobs[job_id]

    def conclude(self, job_id: str, status: str) -> None:
        job = self.jobs[job_id]
        self.leave(job_id)
        job.status, job.exec = status, ""
        if job.noted:
            self.create(job.noted, last=job.last)
            return
        ended = self.ended[status]
        ended.append(job_id)
        for oldest in ended[:-KEEP]:
            self.forget(oldest)

    def answer(self, request: EnqueueRequest, when_active: str) -> tuple[str, str, str]:
        """Do an enqueue; return word, run and RQ's status as the script should."""
        job = self.jobs.get(request.id)
        if request.call in self.calls:
            word, run = self.calls[request.call]
            return word, run, job.status if job and job.run == run else "finished"
        if job and job.request.type != request.type:
            return "conflict", job.request.type, job.status
        if job is None or not job.is_active:
            if job:
                self.leave(request.id)
            self.create(request, last=job.last if job else "")
            word, run, status = "new", request.run, self.jobs[request.id].status
        else:
            word, run = self._of_active(job, request, when_active)
            status = job.status
        self.calls[request.call] = (word, run)
        return word, run, status

    def _of_active(
        self, job: Modelled, request: EnqueueRequest, when_active: str
    ) -> tuple[str, str]:
        differs = job.status == "started" or job.request.data != request.data
        is_ending = job.status == "started" and job.is_canceled
        if not is_ending and not (when_active == "rerun" and differs):
            return "duplicate", job.run
        if job.noted and when_active != "rerun":
            return "duplicate", job.noted.run
        run = job.noted.run if job.noted else request.run
        job.noted = request_of(
            request.id,
            queue=request.origin,
            call=request.call,
            run=run,
            type_name=request.type,
            due=request.due,
            data=request.data,
        )
        return "rerun", run


class Scripts(RuleBasedStateMachine):
    """Each rule does one thing to both, and compares the answers."""

    @initialize(data=st.data())
    def start(self, data: st.DataObject) -> None:
        """Begin with jobs that wait, are delayed or run: most rules need some."""
        self.redis = redis_of_the_session[0]
        self.redis.flushdb()
        self.redis.script_flush()
        self.broker = Broker(self.redis)
        self.hands = [Hand(self.broker, [Q]), Hand(self.broker, [Q])]
        self.unheard: list[list[Claim]] = [[], []]  # taken, but the answer was lost
        self.over: list[Claim] = []
        self.sent: list[tuple[EnqueueRequest, str]] = []
        self.model = Model()
        self.told = 0
        self.shown: set[str] = set()
        self.runs = 0
        for job_id in IDS:
            self.enqueue(
                job_id=job_id,
                origin=data.draw(st.sampled_from(Q.origins)),
                is_delayed=data.draw(st.booleans()),
                when_active="return",
                value=0,
                type_name="test.it",
            )
        for hand in (0, 1):
            self.claim(hand=hand, room=data.draw(st.integers(0, 2)), is_lost=False)

    @rule(
        job_id=ids,
        origin=st.sampled_from(Q.origins),
        is_delayed=st.booleans(),
        when_active=st.sampled_from(("return", "return", "rerun")),
        value=st.integers(0, 1),
        type_name=st.sampled_from(("test.it",) * 9 + ("test.other",)),
    )
    def enqueue(
        self,
        job_id: str,
        origin: str,
        is_delayed: bool,
        when_active: str,
        value: int,
        type_name: str,
    ) -> None:
        self.runs += 1
        request = request_of(
            job_id,
            queue=origin,
            run=f"run-{self.runs}",
            call=f"call-{self.runs}",
            type_name=type_name,
            due="+3600000" if is_delayed else "",
            payload=f'{{"value":{value}}}',
            when_active=when_active,
        )
        self.sent.append((request, when_active))
        self.send(request, when_active)

    @precondition(lambda self: self.sent)
    @rule(data=st.data())
    def enqueue_the_same_call(self, data: st.DataObject) -> None:
        self.send(*data.draw(st.sampled_from(self.sent)))

    def send(self, request: EnqueueRequest, when_active: str) -> None:
        (answer,) = self.broker.enqueue([request])
        expected = self.model.answer(request, when_active)
        assert (answer.word, answer.run, answer.raw_status) == expected

    @rule(hand=hands, room=st.integers(1, 3), is_lost=st.booleans())
    def claim(self, hand: int, room: int, is_lost: bool) -> None:
        if self.unheard[hand]:
            return self.claim_again(hand)
        claims = self.hands[hand].claim(threads=room)
        expected = [job_id for origin in Q.origins for job_id in self.model.lists[origin]][:room]
        if self.model.is_paused:
            expected = []
        assert [claim.id for claim in claims] == expected
        for claim in claims:
            job = self.model.jobs[claim.id]
            self.model.leave(claim.id)
            job.status, job.exec, job.attempt = "started", claim.exec, job.attempt + 1
            job.percent = 0 if job.attempt > 1 else job.percent
            job.last = ""  # one execution is remembered, and this is the one now
            self.model.tell("claimed", claim.id)
            assert (claim.run, claim.attempt, claim.attempts) == (
                job.run,
                job.attempt,
                job.attempts,
            )
            assert (claim.origin, claim.data.decode()) == (job.origin, job.request.data)
        if is_lost:
            self.unheard[hand] = claims
            for claim in claims:
                del self.hands[hand].held[claim.exec]

    def claim_again(self, hand: int) -> None:
        known = list(self.hands[hand].held.values())
        heard = self.hands[hand].claim(threads=5, repeat=True, knows=known)
        expected = {claim.exec for claim in self.unheard[hand] if self.holds(claim)}
        assert {claim.exec for claim in heard} == expected
        self.unheard[hand] = []

    def has(self, *statuses: str) -> bool:
        return any(job.status in statuses for job in self.model.jobs.values())

    def holds(self, claim: Claim) -> bool:
        job = self.model.jobs.get(claim.id)
        return job is not None and job.exec == claim.exec

    @precondition(lambda self: any(hand.held for hand in self.hands))
    @rule(data=st.data(), word=words, waits=st.booleans())
    def end(self, data: st.DataObject, word: OutcomeWord, waits: bool) -> None:
        held = [(hand, claim) for hand in self.hands for claim in hand.held.values()]
        hand, claim = data.draw(st.sampled_from(held))
        self.over.append(claim)
        self.hand_in(hand, claim, word, waits)

    @precondition(lambda self: any(hand.held for hand in self.hands))
    @rule(data=st.data(), word=st.sampled_from(("failed", "retry")))
    def die(self, data: st.DataObject, word: OutcomeWord) -> None:
        held = [(hand, claim) for hand in self.hands for claim in hand.held.values()]
        hand, claim = data.draw(st.sampled_from(held))
        self.over.append(claim)
        job = self.model.jobs.get(claim.id)
        is_poison = False
        if job and self.holds(claim) and not job.is_canceled:
            job.crashes += 1
            is_poison = job.crashes >= 3
        answer = hand.end(claim, word, delay=3600, error_type="ProcessDied")
        expected = self.ended(claim, "failed" if is_poison else word, waits=True)
        assert answer == ("poison" if is_poison else expected)

    @precondition(lambda self: any(len(hand.held) > 1 for hand in self.hands))
    @rule(data=st.data(), word=words, others=st.lists(st.sampled_from(COME_BACK), max_size=2))
    def end_several(
        self, data: st.DataObject, word: OutcomeWord, others: list[OutcomeWord]
    ) -> None:
        # At most one of them ends for good: of two that do at once, none is the older.
        hand = data.draw(st.sampled_from([hand for hand in self.hands if len(hand.held) > 1]))
        claims = data.draw(st.permutations(list(hand.held.values())))
        flagged = {c.exec for c in claims if self.holds(c) and self.model.jobs[c.id].is_canceled}
        first, rest = claims[0], [claim for claim in claims[1:] if claim.exec not in flagged]
        ends = [(first, word), *zip(rest, others, strict=False)]
        answers = hand.end_many(ends, delay=3600)
        self.over += [claim for claim, _ in ends]
        assert answers == [self.ended(claim, end, waits=True) for claim, end in ends]

    @precondition(lambda self: self.over)
    @rule(data=st.data(), word=words, waits=st.booleans(), hand=hands)
    def end_again(self, data: st.DataObject, word: OutcomeWord, waits: bool, hand: int) -> None:
        claim = data.draw(st.sampled_from(self.over))
        self.hand_in(self.hands[hand], claim, word, waits)

    def hand_in(self, hand: Hand, claim: Claim, word: OutcomeWord, waits: bool) -> None:
        wait = 3600 if waits or word == "snooze" else 0  # else it were due for the idle chores
        answer = hand.end(claim, word, delay=wait)
        assert answer == self.ended(claim, word, waits=waits)

    def ended(self, claim: Claim, word: OutcomeWord, *, waits: bool) -> str:
        """Let a run end in the model; return what the script should answer."""
        model, job = self.model, self.model.jobs.get(claim.id)
        if job is None or job.exec != claim.exec:
            return "recorded" if job and job.last == claim.exec else "lost"
        job.last = claim.exec
        answer = "canceled" if job.is_canceled and word != "canceled" else "ok"
        if job.is_canceled:
            word = "canceled"
        job.history += word in ("completed", "failed", "retry")
        if word == "release":
            job.attempt -= 1
            model.push(claim.id, is_first=True)
            model.tell("queued", claim.id)
        elif word == "snooze":
            job.attempt -= 1
            job.status, job.exec = "scheduled", ""
            model.tell("delayed", claim.id)
        elif word == "retry":
            model.tell("failed", claim.id)
            if waits:
                job.status, job.exec = "scheduled", ""
            else:
                model.push(claim.id)
        else:
            model.tell(word, claim.id)
            model.conclude(claim.id, {"completed": "finished"}.get(word, word))
        return answer

    @precondition(lambda self: self.has("started"))
    @rule(data=st.data())
    def lose_a_worker(self, data: st.DataObject) -> None:
        running = [job_id for job_id, job in self.model.jobs.items() if job.exec]
        job_id = data.draw(st.sampled_from(running))
        job = self.model.jobs[job_id]
        worker = job.exec.partition("-")[2].partition("-")[0]  # of hand-<name>-<request>-<n>
        others = [
            self.model.jobs[other]
            for other in running
            if other != job_id and worker in self.model.jobs[other].exec
        ]
        was_alone = not others and job.shared != job.exec
        for other in others:
            other.shared = other.exec
        job.crashes += was_alone and not job.is_canceled
        self.redis.zadd(keys.LEASES, {f"{job_id}:{job.exec}": 1}, xx=True)
        (recovery,) = self.broker.recover([Q], interval=3600, lease=15)
        is_poison = was_alone and job.crashes >= 3
        status = "canceled" if job.is_canceled else "failed"
        if not job.is_canceled and not is_poison and job.attempt < job.attempts:
            status = "queued"
        assert (recovery.id, recovery.run, recovery.outcome) == (job_id, job.run, status)
        job.history += 1
        self.model.tell("stalled", job_id)
        if status == "queued":
            self.model.push(job_id, is_first=True)
        else:
            job.last = ""
            self.model.tell(status, job_id)
            self.model.conclude(job_id, status)
        for hand in self.hands:
            self.over += [claim for claim in hand.held.values() if claim.id == job_id]
            hand.held = {e: claim for e, claim in hand.held.items() if claim.id != job_id}

    @precondition(lambda self: self.has("started"))
    @rule(hand=hands)
    def show(self, hand: int) -> None:
        held = [claim for claim in self.hands[hand].held.values() if self.holds(claim)]
        self.broker.show(self.hands[hand].name, [claim.entry for claim in held])
        self.shown |= {claim.entry for claim in held}

    @precondition(lambda self: any(hand.held for hand in self.hands))
    @rule(data=st.data(), percent=st.integers(0, 100))
    def say(self, data: st.DataObject, percent: int) -> None:
        claims = [claim for hand in self.hands for claim in hand.held.values()]
        claim = data.draw(st.sampled_from(claims))
        answer = self.broker.progress(claim.id, claim.exec, percent=percent, message="")
        assert self.broker.standing(claim.id, claim.exec) == answer
        if not self.holds(claim):
            assert answer == "lost"
            return
        job = self.model.jobs[claim.id]
        assert answer == ("canceled" if job.is_canceled else "ok")
        job.percent = max(job.percent, percent)
        self.model.tell("progress", claim.id)

    @precondition(lambda self: self.has("scheduled"))
    @rule(job_id=ids)
    def hasten(self, job_id: str) -> None:
        job = self.model.jobs.get(job_id)
        answer = self.broker.hasten(job_id)
        if job is None or job.status != "scheduled":
            assert answer == (job.status if job else "missing")
            return
        assert answer == "promoted"
        self.model.push(job_id)
        self.model.tell("queued", job_id)

    @precondition(lambda self: any(hand.held for hand in self.hands))
    @rule(hand=hands)
    def renew(self, hand: int) -> None:
        held = self.hands[hand].held.values()
        lost, canceled = self.broker.renew([claim.entry for claim in held], lease=15)
        assert lost == {claim.entry for claim in held if not self.holds(claim)}
        flagged = {claim.entry for claim in held if self.model.jobs[claim.id].is_canceled}
        assert canceled == flagged - lost

    @precondition(lambda self: self.has("queued", "started", "scheduled"))
    @rule(job_id=ids)
    def cancel(self, job_id: str) -> None:
        job = self.model.jobs.get(job_id)
        try:
            answer = self.broker.cancel(job_id, retention=Q.retention)
        except (JobNotFound, WrongState):
            assert job is None or not job.is_active
            return
        assert job is not None
        if job.status == "started":
            assert answer == "asked"
            job.is_canceled = True
            return
        assert answer == "canceled"
        self.model.tell("canceled", job_id)
        self.model.conclude(job_id, "canceled")

    @precondition(lambda self: self.has("failed", "canceled"))
    @rule(job_id=ids)
    def retry(self, job_id: str) -> None:
        job = self.model.jobs.get(job_id)
        answer = self.broker.retry([job_id], attempts=2)
        if job is None or job.status not in ("failed", "canceled"):
            assert answer == [job.status if job else "missing"]
            return
        assert answer == ["retried"]
        self.model.leave(job_id)
        job.attempts, job.is_canceled, job.crashes = job.attempt + 2, False, 0
        job.percent = 0
        self.model.push(job_id)
        self.model.tell("retried", job_id)

    @precondition(lambda self: self.has("scheduled"))
    @rule(data=st.data())
    def come_due(self, data: st.DataObject) -> None:
        delayed = [i for i, job in self.model.jobs.items() if job.status == "scheduled"]
        job_id = data.draw(st.sampled_from(delayed))
        origin = self.model.jobs[job_id].origin
        assert self.redis.zadd(f"rq:scheduled:{origin}", {job_id: 1}, xx=True, ch=True) == 1
        assert self.broker.promote([Q])[0] == 1
        self.model.push(job_id)
        self.model.tell("queued", job_id)

    @precondition(lambda self: not self.model.is_paused)
    @rule()
    def pause(self) -> None:
        assert self.broker.pause(Q) is not self.model.is_paused
        self.model.is_paused = True
        self.model.tell("paused")

    @precondition(lambda self: self.model.is_paused)
    @rule()
    def resume(self) -> None:
        assert self.broker.resume(Q) is self.model.is_paused
        if self.model.is_paused:
            self.model.tell("resumed")
        self.model.is_paused = False

    @precondition(lambda self: self.runs > 5)
    @rule()
    def empty(self) -> None:
        removed = 0
        for origin in Q.origins:
            delayed = [
                job_id
                for job_id, job in self.model.jobs.items()
                if job.status == "scheduled" and job.origin == origin
            ]
            scores = f"rq:scheduled:{origin}"
            delayed.sort(key=lambda job_id: (self.redis.zscore(scores, job_id), job_id))
            for job_id in (*self.model.lists[origin], *delayed):
                self.model.tell("purged", job_id)
                self.model.forget(job_id)
                removed += 1
        assert self.broker.empty(Q) == removed

    @precondition(lambda self: self.runs > 5)
    @rule(registry=st.sampled_from(("finished", "failed", "canceled")))
    def clean(self, registry: str) -> None:
        gone = list(self.model.ended[registry])
        for origin in Q.origins:
            for job_id in gone:
                if self.model.jobs.get(job_id) and self.model.jobs[job_id].origin == origin:
                    self.model.tell("purged", job_id)
        for job_id in gone:
            self.model.forget(job_id)
        assert self.broker.clean(Q, older_than=0, registries=[registry]) == len(gone)

    @rule()
    def idle_chores(self) -> None:
        assert self.broker.sweep([Q]) == 0
        assert self.broker.promote([Q])[0] == 0
        assert self.broker.recover([Q], interval=3600, lease=15) == []
        assert self.broker.reconcile([Q]) == 0

    @invariant()
    def every_job_is_in_exactly_one_place(self) -> None:
        if not hasattr(self, "model"):
            return
        for job_id in IDS:
            job = self.model.jobs.get(job_id)
            found = self.found_by_rq(job_id)
            if job is None:
                assert found == []
            else:
                assert found == [f"{PLACE.get(job.status, job.status)}:{job.origin}"]
        for origin, waiting in self.model.lists.items():
            queue = RQQueue(origin, connection=self.redis, serializer=JSONSerializer)
            assert queue.get_job_ids() == waiting
            assert queue.count == len(waiting)
            there = [job.status for job in self.model.jobs.values() if job.origin == origin]
            for status, registry in {**REGISTRIES, "started": StartedJobRegistry}.items():
                options = {"connection": self.redis, "serializer": JSONSerializer}
                assert registry(origin, **options).count == there.count(status)

    def found_by_rq(self, job_id: str) -> list[str]:
        places = []
        for origin in Q.origins:
            options = {"connection": self.redis, "serializer": JSONSerializer}
            if job_id in RQQueue(origin, **options).get_job_ids():
                places.append(f"queue:{origin}")
            if job_id in StartedJobRegistry(origin, **options).get_job_ids():
                places.append(f"wip:{origin}")
            for name, registry in REGISTRIES.items():
                if job_id in registry(origin, **options).get_job_ids():
                    places.append(f"{name}:{origin}")
        return places

    @invariant()
    def rq_and_we_read_what_the_model_says(self) -> None:
        if not hasattr(self, "model"):
            return
        for job_id, found in zip(IDS, self.broker.fetch_many(IDS), strict=True):
            job = self.model.jobs.get(job_id)
            try:
                theirs = RQJob.fetch(job_id, connection=self.redis, serializer=JSONSerializer)
            except NoSuchJobError:
                assert job is found is None
                continue
            assert job is not None
            assert found is not None
            assert theirs.get_status(refresh=False).value == found.raw_status == job.status
            assert (theirs.origin, theirs.args[0]) == (job.origin, job.request.type)
            assert found.status == STATUSES[job.status]
            assert (found.run_id, found.attempt, found.attempts) == (
                *(job.run, job.attempt, job.attempts),
            )
            assert found.is_ended is not job.is_active
            assert found.progress == (100 if job.status == "finished" else job.percent)
            # Only an ended job may expire.
            assert (self.redis.ttl(keys.job(job_id)) == -1) is job.is_active
            assert self.redis.xlen(keys.results(job_id)) == min(10, job.history)
            assert int(self.redis.hget(keys.job(job_id), "crashes") or 0) == job.crashes
        statuses = [job.status for job in self.model.jobs.values()]
        assert list(self.broker.counts([Q])["q"].values()) == [
            statuses.count(status)
            for status in ("queued", "started", "scheduled", "finished", "failed", "canceled")
        ]

    @invariant()
    def nothing_of_an_execution_is_left_but_of_running_ones(self) -> None:
        if not hasattr(self, "model"):
            return
        entries = {f"{i}:{job.exec}" for i, job in self.model.jobs.items() if job.exec}
        assert {entry.decode() for entry in self.redis.zrange(keys.LEASES, 0, -1)} == entries
        assert {entry.decode() for entry in self.redis.hkeys(keys.HELD)} == entries
        shown = set()
        for hand in self.hands:
            shown |= self.redis.smembers(f"rq:worker:{hand.name}:executions")
        assert {entry.decode() for entry in shown} == self.shown & entries
        executions = {key.decode() for key in self.redis.keys("rq:execution:*")}
        assert executions == {f"rq:execution:{entry}" for entry in self.shown & entries}
        assert len(self.redis.keys("rq:executions:*")) == len(executions)

    @invariant()
    def the_events_tell_each_change_once_and_in_order(self) -> None:
        if not hasattr(self, "model"):
            return
        stream = self.redis.xrange(keys.EVENTS)
        told = [
            (event[b"event"].decode(), event[b"job"].decode(), event[b"run"].decode())
            for _, event in stream
        ]
        assert told[self.told :] == self.model.events[self.told :]
        self.told = len(told)


@pytest.fixture
def machine(redis: Redis, valkey: str) -> Iterator[type[Scripts]]:
    """The state machine, on this session's server."""
    redis_of_the_session[:] = [connect(valkey)]
    yield Scripts
    redis_of_the_session.pop().close()


@pytest.mark.timeout(420)  # a failure is shrunk for up to five minutes
def test_random_sequences_agree_with_the_model(machine: type[Scripts]) -> None:
    run_state_machine_as_test(machine, settings=settings(max_examples=30, stateful_step_count=30))


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_long_random_sequences_agree_with_the_model(machine: type[Scripts]) -> None:
    phases = [Phase.generate, Phase.shrink]
    run_state_machine_as_test(
        machine, settings=settings(max_examples=1500, stateful_step_count=80, phases=phases)
    )
