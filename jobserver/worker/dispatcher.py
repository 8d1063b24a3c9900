"""The dispatcher: one thread that claims jobs, hands in their ends and keeps the leases."""

from __future__ import annotations

import logging
import os
import select
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any

from redis.exceptions import ResponseError

from jobserver.broker import Broker, Claim, Ending, Recovery, Share
from jobserver.broker.broker import available
from jobserver.broker.doorbell import Doorbell
from jobserver.broker.job import queue_of, shown_value
from jobserver.config import Config
from jobserver.errors import RedisUnavailable
from jobserver.lines import FrequentLine, Lines, all_held
from jobserver.listener import NAMES, EventName, JobEvent, Listeners
from jobserver.policy import Queue, Retention, exponential
from jobserver.worker.aftermath import Aftermath
from jobserver.worker.exchanges import Exchanges
from jobserver.worker.fairness import Fairness
from jobserver.worker.processes import BY_ORDER, GRACE, Processes
from jobserver.worker.threads import Threads
from jobserver.worker.watchdog import Watchdog

BATCH = 200  # ends handed in per exchange
ANSWER = 5.0  # seconds until the answer of an exchange counts as lost
POLL = 1.0  # seconds between looks at the queues while no doorbell rings (stock tools ring none)
PROMOTE = 0.5  # seconds between looks for delayed jobs that are due
SHOWN = 1.0  # seconds after which RQ's readers see an execution
SWEEP = 60.0  # seconds between sweeps of the retention
RETRY = exponential(0.1, cap=1.0)  # until Redis is tried again

logger = logging.getLogger("jobserver.worker")


class Timer:
    """Says when `interval` seconds have passed since it last said so."""

    def __init__(self, interval: float, *, first: float = 0) -> None:
        self.interval = interval
        self.due = time.monotonic() + first

    def is_up(self, now: float) -> bool:
        """Return whether it is time, and start over if it is."""
        if now < self.due:
            return False
        self.due = now + self.interval
        return True


class Dispatcher:
    """The loop of one worker."""

    def __init__(
        self,
        broker: Broker,
        config: Config,
        *,
        name: str,
        queues: Sequence[Queue],
        threads: Threads,
        processes: Processes,
        doorbell: Doorbell,
        heartbeat: Callable[[Dispatcher], None],
        watchdog: Watchdog,
        aftermath: Aftermath,
        lines: Sequence[Lines],
        listeners: Listeners,
        recovered: Callable[[Sequence[Recovery]], None],
    ) -> None:
        self.broker = broker
        self.config = config
        self.name = name
        self.queues = list(queues)
        self.threads = threads
        self.processes = processes
        self.doorbell = doorbell
        self.watchdog = watchdog
        self.aftermath = aftermath
        self.lines = lines
        self.listeners = listeners
        self._recovered = recovered
        self.held: dict[str, Claim] = {}  # by execution, until their end is recorded
        self.tally: Counter[str] = Counter()
        self.busy_seconds = 0.0
        self._retention = {queue.name: queue.retention for queue in queues}
        self._exchanges = Exchanges(broker, worker=name, lease=config.lease_seconds)
        self._pending: deque[Ending] = deque()
        self._by_name = {queue.name: queue for queue in queues}
        slots = {"process": processes.slots, "thread": threads.slots}
        self._fairness = Fairness(queues, slots=slots)
        self._started: dict[str, float] = {}
        self._shown: set[str] = set()
        self._orders: deque[Callable[[], None]] = deque()
        self._look = Timer(POLL)
        self._wants_work = True
        self._stop_at: float | None = None
        self._canceled: dict[str, float] = {}
        self._failures = 0
        self._retry_at = 0.0
        self._readable, self._writable = os.pipe()
        os.set_blocking(self._readable, False)
        os.set_blocking(self._writable, False)
        self._sleeps = False
        self._completed = FrequentLine(logger, "Job %s completed in queue %s in %.0f ms: %s")
        self._ready: list[Any] = []  # what the last waiting found to be readable
        third = config.lease_seconds / 3
        self._poll = Timer(POLL)
        self._renewal = Timer(third, first=third)
        self._chores: list[tuple[Timer, Callable[[], None]]] = [
            (self._renewal, self._renew),
            (Timer(PROMOTE), self._promote),
            (Timer(third), self._recover),
            (Timer(SWEEP, first=SWEEP), self._sweep),
            (Timer(1.0), lambda: heartbeat(self)),
            (Timer(SHOWN, first=SHOWN), self._show),
        ]
        self._chores_due = 0.0

    @property
    def wakeup_fd(self) -> int:
        """The file descriptor for signal.set_wakeup_fd: a signal ends the waiting."""
        return self._writable

    def wake(self) -> None:
        """End the waiting; safe from any thread."""
        if self._sleeps:
            with suppress(BlockingIOError):  # then enough is in the pipe to wake it
                os.write(self._writable, b"w")

    def stop(self, *, within: float) -> None:
        """Claim nothing more; what still runs after `within` seconds is put back."""
        at = time.monotonic() + within
        self._stop_at = at if self._stop_at is None else min(at, self._stop_at)

    def order(self, command: Callable[[], None]) -> None:
        """Have the dispatcher's own thread do something, soon; safe from any thread."""
        self._orders.append(command)
        self.wake()

    def holds(self, job_id: str, exec_id: str = "") -> bool:
        """Return whether this worker runs a job, in this execution if one is named."""
        held = list(self.held.values())
        return any(claim.id == job_id and exec_id in ("", claim.exec) for claim in held)

    def stop_job(self, job_id: str) -> None:
        """End a job that has been canceled by force, at once."""
        for claim in self.held.values():
            if claim.id == job_id:
                self._canceled[claim.exec] = time.monotonic()
                self._force(claim)

    def kill_processes(self) -> None:
        """Kill the processes of all jobs that run; they have failed, and are retried by policy."""
        for claim in self.held.values():
            self.processes.interrupt(claim, BY_ORDER)

    def run(
        self, *, burst: bool = False, max_jobs: int | None = None, max_idle: float | None = None
    ) -> int:
        """Work until told to stop (or as `rq worker`'s options say); return how many jobs ended."""
        idle_since = time.monotonic()
        self._wants_work = True
        while True:
            now = time.monotonic()
            self.watchdog.pat(now)
            while self._orders:
                self._orders.popleft()()
            if now >= self._retry_at and now >= self._chores_due:
                self._do_chores(now)
            if self._poll.is_up(now):
                self._wants_work = True
            self._collect(now)
            self._receive(now)
            most = self._most(max_jobs)
            self._wants_work = self._wants_work and most > 0
            while self._has_to_say() and self._send(most=most):
                most = self._most(max_jobs)
            if self.held or self._pending:
                idle_since = now
            if self.held or self._pending or self._exchanges:
                if self._stop_at is not None and now >= self._stop_at:
                    self._put_back()
            else:
                is_dry = burst and not self._wants_work and not self._exchanges.must_repeat
                is_bored = max_idle is not None and now - idle_since >= max_idle
                if most == 0 or is_dry or is_bored:
                    return self.tally.total()
            self._wait()

    def _most(self, max_jobs: int | None) -> int:
        """Return how many jobs may still be claimed."""
        if self._stop_at is not None:
            return 0
        if max_jobs is None:
            return self.threads.slots + self.processes.slots
        asked = self._exchanges.threads + self._exchanges.processes
        return max(0, max_jobs - self.tally.total() - len(self.held) - asked)

    def _free(self) -> int:
        return self._free_threads() + self._free_processes()

    def _free_threads(self) -> int:
        return self.threads.free - self._exchanges.threads

    def _free_processes(self) -> int:
        return self.processes.free - self._exchanges.processes

    def _collect(self, now: float) -> None:
        for ending in (*self.threads.ended(), *self.processes.ended(self._ready)):
            if ending.claim.exec in self.held:
                self._pending.append(ending)
        self.processes.overdue(now)
        self._overdue_threads(now)

    def _has_to_say(self) -> bool:
        can_send = self._exchanges.may_send and time.monotonic() >= self._retry_at
        has_room = self._wants_work and self._free() > 0
        return can_send and (bool(self._pending) or has_room or self._exchanges.must_repeat)

    def _send(self, *, most: int) -> bool:
        """Send the next exchange; return whether there may be another one to send."""
        # Half of what there is, for the other half to be under way while this one's answer is used.
        size = len(self._pending)
        size = min(BATCH, size if self._exchanges or size < 4 else (size + 1) // 2)
        batch = [self._pending.popleft() for _ in range(size)]
        left = max(0, min(most, self._free() - len(self._pending)))
        processes = max(0, min(self._free_processes(), left))
        threads = max(0, min(self._free_threads(), left - processes))
        asks = processes + threads > 0 or self._exchanges.must_repeat
        try:
            self._exchanges.send(
                [(ending, self._kept(ending.claim)) for ending in batch],
                processes=processes,
                threads=threads,
                shares=self._shares(processes, threads, batch) if asks else (),
                known=self.held,
                look=asks and self._look.is_up(time.monotonic()),
            )
        except RedisUnavailable as error:
            self._unanswered(error)
            return False
        return bool(self._pending)

    def _receive(self, now: float) -> None:
        """Take the answers that have come."""
        exchanges = self._exchanges
        while exchanges and (exchanges.source in self._ready or exchanges.has_read):
            self._ready = [source for source in self._ready if source is not exchanges.source]
            try:
                sent, answer = exchanges.receive()
            except RedisUnavailable as error:
                self._unanswered(error)
                return
            if answer.words is None:
                self._pending.extendleft(reversed(sent.endings))
            else:
                with all_held(self.lines):
                    for ending, word in zip(sent.endings, answer.words, strict=True):
                        self._note(ending, word)
            if answer.error:
                self._unanswered(answer.error)
                return
            self._reached()
            for claim in answer.claims:
                if claim.exec not in self.held:
                    self._start(claim)
            if sent.request is not None:
                taken: dict[str, int] = {}
                for claim in answer.claims:
                    queue = queue_of(claim.origin)[0]
                    taken[queue] = taken.get(queue, 0) + 1
                asked = sent.processes + sent.threads
                self._fairness.answered(sent.shares, taken, asked=asked, now=now)
                self._poll.due = now + POLL
                if len(answer.claims) < asked:
                    self._wants_work = False
        if now - exchanges.since >= ANSWER:
            self._unanswered(RedisUnavailable(f"Redis has not answered for {ANSWER:.0f} s"))

    def _unanswered(self, error: RedisUnavailable) -> None:
        """Keep what was sent but not answered, to be sent again."""
        self._pending.extendleft(reversed(self._exchanges.take_back()))
        self._wants_work = True
        self._unavailable(error)

    def _shares(self, processes: int, threads: int, leaving: Sequence[Ending]) -> list[Share]:
        gone = (*self._exchanges.endings, *leaving)
        asked: dict[str, int] = {}
        for sent in self._exchanges:
            for queue, _, room in sent.shares:
                if queue.concurrency is not None:
                    asked[queue.name] = asked.get(queue.name, 0) + room
        return self._fairness.shares(
            {"process": processes, "thread": threads},
            leaving=(queue_of(ending.claim.origin)[0] for ending in gone),
            asked=asked,
            now=time.monotonic(),
        )

    def _start(self, claim: Claim) -> None:
        self.held[claim.exec] = claim
        self._started[claim.exec] = time.monotonic()
        queue = queue_of(claim.origin)[0]
        self._fairness.started(queue)
        known = self._by_name.get(queue)
        executor = self.threads if known and known.executor == "thread" else self.processes
        if logger.isEnabledFor(logging.DEBUG):
            logger.debug("Job %s active in queue %s", claim.id, queue, extra=_fields(claim, 0))
        executor.start(claim)

    def _note(self, ending: Ending, word: str) -> None:
        claim = ending.claim
        self._canceled.pop(claim.exec, None)
        self._shown.discard(claim.exec)
        now = time.monotonic()
        took = now - self._started.pop(claim.exec, now)
        self.busy_seconds += took
        queue = queue_of(claim.origin)[0]
        if self.held.pop(claim.exec, None):
            self._fairness.ended(queue, took, now=now)
        if not claim.type:  # made by stock RQ
            self.aftermath.ring()
        if word == "lost":
            line = "Job %s stalled in queue %s: its run was taken over"
            logger.warning(line, claim.id, queue, extra=_fields(claim, took))
            return
        if word == "poison":
            ending = ending._replace(word="failed", error_type="Poison")
        elif word == "canceled":
            ending = ending._replace(word="canceled", reason="its end came too late")
        self.tally[ending.word] += 1
        if self.listeners.are_any and ending.word in NAMES:
            self._tell(ending, ending.word, took)
        if ending.word == "completed":
            if self._completed.is_wanted:
                value = shown_value(ending.value)
                self._completed.log(claim.id, queue, took * 1000, value, extra=_fields(claim, took))
        elif ending.word in ("failed", "retry"):
            what = f"again in {ending.delay:.1f} s" if ending.word == "retry" else "for good"
            logger.error(
                "Job %s failed in queue %s, attempt %d of %d, %s: %s: %s",
                claim.id,
                queue,
                claim.attempt,
                claim.attempts,
                what,
                ending.error_type,
                ending.error_message,
                extra=_fields(claim, took),
            )
        else:
            line = "Job %s: %s in queue %s: %s"
            fields = _fields(claim, took)
            logger.info(line, claim.id, ending.word, queue, ending.reason, extra=fields)

    def _tell(self, ending: Ending, name: EventName, took: float) -> None:
        claim = ending.claim
        self.listeners.tell(
            JobEvent(
                name=name,
                job_id=claim.id,
                run_id=claim.run,
                type=claim.type,
                queue=queue_of(claim.origin)[0],
                attempt=claim.attempt,
                attempts=claim.attempts,
                seconds=took,
                error_type=ending.error_type,
                error_message=ending.error_message,
            )
        )

    def _ends(self) -> Iterator[Ending]:
        """Yield the ends that are not recorded yet, as far as is known here."""
        yield from self._exchanges.endings
        yield from self._pending

    def _kept(self, claim: Claim) -> Retention:
        return self._retention.get(queue_of(claim.origin)[0]) or Retention()

    def _put_back(self) -> None:
        known = {ending.claim.exec for ending in self._ends()}
        for claim in self.held.values():
            if claim.exec in known:
                continue
            if self.threads.runs(claim):
                reason = "worker shut down"
                self._pending.append(Ending(claim=claim, word="release", reason=reason))
            else:
                self.processes.interrupt(claim, "shutdown")

    def _overdue_threads(self, now: float) -> None:
        for ending in self.threads.overdue(now):
            if ending.claim.exec in self.held:
                self._pending.append(ending)
        if self.threads.is_stuck and self._stop_at is None:
            logger.error("A job does not stop at its timeout: the worker will exit, to be replaced")
            self.stop(within=self.config.drain_seconds)
        if self.processes.is_broken and self._stop_at is None:
            logger.error("The template process was killed: the worker will exit, to be replaced")
            self.stop(within=self.config.drain_seconds)

    def _do_chores(self, now: float) -> None:
        try:
            for timer, chore in self._chores:
                if timer.is_up(now):
                    chore()
        except RedisUnavailable as error:
            retry_at = self._retry_at
            self._unavailable(error)
            self._chores_due = self._retry_at
            if isinstance(error.__cause__, ResponseError):
                self._retry_at = retry_at  # a full server refuses most chores, but takes what ended
            self.watchdog.pat(time.monotonic())  # the next exchange can take as long
            return
        self._chores_due = min(timer.due for timer, _ in self._chores)

    def _renew(self) -> None:
        under_way = {ending.claim.exec for ending in self._exchanges.endings}
        entries = {c.entry: c for c in self.held.values() if c.exec not in under_way}
        if not entries:
            return
        lost, canceled = self.broker.renew(list(entries), lease=self.config.lease_seconds)
        for entry in canceled & set(entries):
            claim = entries[entry]
            due = self._canceled.setdefault(claim.exec, time.monotonic() + GRACE)
            if time.monotonic() >= due:
                self._force(claim)
        ended = {ending.claim.exec for ending in self._pending}  # maybe recorded, the answer lost
        for entry in lost & set(entries):
            claim = entries[entry]
            if claim.exec in ended:
                continue
            logger.warning("Job %s: the lease was lost, its end will not count", claim.id)
            self.processes.interrupt(claim, "lease lost")

    def _force(self, claim: Claim) -> None:
        self.processes.interrupt(claim, "canceled")
        if ending := self.threads.cancel(claim):
            self._pending.append(ending)

    def _show(self) -> None:
        since = time.monotonic() - SHOWN
        lasting = {exec for exec, start in self._started.items() if start <= since} - self._shown
        if lasting:
            self.broker.show(self.name, [self.held[exec].entry for exec in lasting])
            self._shown |= lasting

    def _promote(self) -> None:
        moved, _ = self.broker.promote(self.queues)
        self._wants_work = self._wants_work or moved > 0

    def _recover(self) -> None:
        third = self.config.lease_seconds / 3
        lease = self.config.lease_seconds
        if found := self.broker.recover(self.queues, interval=third, lease=lease):
            self._wants_work = True
            self._recovered(found)

    def _sweep(self) -> None:
        self.broker.sweep(self.queues)
        self.broker.backlog()  # in case no scheduler process lives

    def _unavailable(self, error: RedisUnavailable) -> None:
        if self._failures == 0:
            logger.warning("%s; running jobs go on, their ends are kept", error)
        self._failures += 1
        self._retry_at = time.monotonic() + RETRY.wait(self._failures)
        self._renewal.due = 0  # the leases have aged: first of all when Redis is back
        self.doorbell.close()

    def _reached(self) -> None:
        if self._failures:
            logger.warning("Redis is back after %d tries", self._failures)
        self._failures = 0

    def _wait(self) -> None:
        self._ready = []  # read by now: a child that has nothing more to say would block us
        exchanges = self._exchanges
        if self._pending and self._failures == 0 and exchanges.may_send:
            return
        under_way = sum(len(sent.endings) for sent in exchanges)
        if exchanges and not self._pending and len(self.held) == under_way:
            self._ready = [exchanges.source]  # nothing runs: the answer is all there is to come
            return
        now = time.monotonic()
        until = min(
            *(self._chores_due, self._poll.due),
            *(self.processes.next_deadline(), self.threads.next_deadline()),
        )
        if self._failures and not exchanges:
            until = max(self._retry_at, now)
        if self._stop_at is not None:
            until = min(until, max(self._stop_at, now + 0.05))
        sources: list[Any] = [self._readable, *self.processes.watched()]
        until = min(until, exchanges.since + ANSWER)
        if (source := exchanges.source) is not None:
            sources.append(source)
        can_ask = exchanges.may_send and self._stop_at is None
        has_more = self._wants_work and self._free() and can_ask
        # With all slots taken a token is for somebody else: a BLPOP under way is only ended.
        if self._free() and not has_more and self._stop_at is None and not self._failures:
            self.doorbell.listen()
        bell = self.doorbell.source
        if bell is not None:
            sources.append(bell)
        self._sleeps = True
        blocked = self.threads.has_ended or (has_more and not self._failures)
        timeout = 0 if blocked else max(0, until - now)
        self._ready = select.select(sources, [], [], timeout)[0]
        self._sleeps = False
        if self._readable in self._ready:
            os.read(self._readable, 4096)
        if bell is not None and bell in self._ready:
            self._answer()

    def _answer(self) -> None:
        token = self.doorbell.rang()
        if token is None:
            return
        if self._free():
            self._wants_work = True
            return
        try:
            with available():
                self.doorbell.pass_on(token)
        except RedisUnavailable as error:
            self._unavailable(error)


def _fields(claim: Claim, took: float) -> dict[str, Any]:
    """Return the fields of a line about a run, for who reads logs by program."""
    return {
        "fields": {
            "job": claim.id,
            "run": claim.run,
            "type": claim.type,
            "queue": queue_of(claim.origin)[0],
            "attempt": claim.attempt,
            "ms": round(took * 1000),
            "trace": claim.trace or claim.run,
        }
    }
