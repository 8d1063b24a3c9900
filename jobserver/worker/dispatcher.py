"""The dispatcher: one thread that claims jobs, hands in their ends and keeps the leases."""

from __future__ import annotations

import logging
import math
import os
import select
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from jobserver.broker import Broker, Claim, Ending, Recovery, Share
from jobserver.broker.broker import available
from jobserver.broker.doorbell import Doorbell
from jobserver.broker.job import queue_of, shown_value
from jobserver.config import Config
from jobserver.errors import RedisUnavailable
from jobserver.ids import new_id
from jobserver.listener import NAMES, EventName, JobEvent, Listeners
from jobserver.policy import Queue, Retention
from jobserver.worker.aftermath import Aftermath
from jobserver.worker.processes import GRACE, Processes
from jobserver.worker.threads import Threads
from jobserver.worker.watchdog import Watchdog

BATCH = 200  # ends handed in per round trip
POLL = 1.0  # seconds between looks at the queues while no doorbell rings (stock tools ring none)
PROMOTE = 0.5  # seconds between looks for delayed jobs that are due
SHOWN = 1.0  # seconds after which RQ's readers see an execution
SWEEP = 60.0  # seconds between sweeps of the retention
RETRY = (0.1, 1.0)  # seconds until Redis is tried again: first and most

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
        self.listeners = listeners
        self._recovered = recovered
        self.held: dict[str, Claim] = {}  # by execution, until their end is recorded
        self.tally: Counter[str] = Counter()
        self.busy_seconds = 0.0
        self._retention = {queue.name: queue.retention for queue in queues}
        self._pending: deque[Ending] = deque()
        self._started: dict[str, float] = {}
        self._shown: set[str] = set()
        self._look = Timer(POLL)
        self._request = 0
        self._is_repeat = False
        self._wants_work = True
        self._token = new_id()
        self._rotation = 0
        self._stop_at: float | None = None
        self._canceled: dict[str, float] = {}
        self._failures = 0
        self._retry_at = 0.0
        self._readable, self._writable = os.pipe()
        os.set_blocking(self._readable, False)
        os.set_blocking(self._writable, False)
        self._sleeps = False
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

    def run(
        self, *, burst: bool = False, max_jobs: int | None = None, max_idle: float | None = None
    ) -> int:
        """Work until told to stop (or as `rq worker`'s options say); return how many jobs ended."""
        idle_since = time.monotonic()
        self._wants_work = True
        while True:
            now = time.monotonic()
            self.watchdog.pat(now)
            if now >= self._retry_at:
                self._do_chores(now)
            self._collect()
            most = self._most(max_jobs)
            self._wants_work = self._wants_work and most > 0
            if self._pending or (self._wants_work and self._free()):
                self._exchange(most=most)
            if self.held or self._pending:
                idle_since = now
                if self._stop_at is not None and now >= self._stop_at:
                    self._put_back()
            else:
                is_dry = burst and not self._wants_work and not self._is_repeat
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
        return max(0, max_jobs - self.tally.total() - len(self.held))

    def _free(self) -> int:
        return self.threads.free + self.processes.free

    def _collect(self) -> None:
        for ending in (*self.threads.ended(), *self.processes.ended()):
            if ending.claim.exec in self.held:
                self._pending.append(ending)
        self.processes.overdue()
        self._overdue_threads()

    def _exchange(self, *, most: int) -> None:
        if time.monotonic() < self._retry_at:
            return
        batch = [self._pending[i] for i in range(min(BATCH, len(self._pending)))]
        processes = min(self.processes.free, most)
        threads = min(self.threads.free, most - processes)
        call = None
        if processes or threads or (most and self._is_repeat):
            call = self.broker.claim_call(
                self.name,
                request=self._request,
                token=self._token,
                lease=self.config.lease_seconds,
                processes=processes,
                threads=threads,
                shares=self._shares(processes, threads),
                known=list(self.held) if self._is_repeat else (),
                look=self._look.is_up(time.monotonic()),
            )
        if not batch and call is None:
            return
        try:
            endings = [(ending, self._kept(ending.claim)) for ending in batch]
            words, taken = self.broker.exchange(self.name, endings=endings, claim=call)
        except RedisUnavailable as error:
            self._is_repeat = self._is_repeat or call is not None
            self._unavailable(error)
            return
        self._reached()
        for ending, word in zip(batch, words, strict=True):
            self._pending.popleft()
            self._note(ending, word)
        for claim in taken:
            self._start(claim)
        if call is not None:
            self._wants_work = self._is_repeat or len(taken) >= processes + threads
            self._is_repeat = False
            self._request += 1
            self._poll.due = time.monotonic() + POLL

    def _shares(self, processes: int, threads: int) -> list[Share]:
        running = Counter(queue_of(claim.origin)[0] for claim in self.held.values())
        free = {"process": processes, "thread": threads}
        weights: Counter[str] = Counter()
        for queue in self.queues:
            weights[queue.executor] += queue.weight  # type: ignore[assignment]  # weights are floats
        self._rotation += 1
        turned = self.queues[self._rotation % len(self.queues) :] + self.queues
        ordered = sorted(
            turned[: len(self.queues)], key=lambda queue: running[queue.name] / queue.weight
        )
        shares = []
        for queue in ordered:
            slots = free[queue.executor]
            room = slots if queue.concurrency is None else queue.concurrency - running[queue.name]
            quota = math.ceil(slots * queue.weight / weights[queue.executor])
            shares.append(Share(queue=queue, quota=quota, room=max(0, min(room, slots))))
        return shares

    def _start(self, claim: Claim) -> None:
        self.held[claim.exec] = claim
        self._started[claim.exec] = time.monotonic()
        queue = queue_of(claim.origin)[0]
        known = next((q for q in self.queues if q.name == queue), None)
        executor = self.threads if known and known.executor == "thread" else self.processes
        logger.debug("Job %s active in queue %s", claim.id, queue)
        executor.start(claim)

    def _note(self, ending: Ending, word: str) -> None:
        claim = ending.claim
        self.held.pop(claim.exec, None)
        self._canceled.pop(claim.exec, None)
        self._shown.discard(claim.exec)
        took = time.monotonic() - self._started.pop(claim.exec, time.monotonic())
        self.busy_seconds += took
        queue = queue_of(claim.origin)[0]
        if not claim.type:  # made by stock RQ
            self.aftermath.ring()
        if word == "lost":
            logger.warning("Job %s stalled in queue %s: its run was taken over", claim.id, queue)
            return
        if word == "poison":
            ending = replace(ending, word="failed", error_type="Poison")
        elif word == "canceled":
            ending = replace(ending, word="canceled", reason="its end came too late")
        self.tally[ending.word] += 1
        if self.listeners.are_any and ending.word in NAMES:
            self._tell(ending, ending.word, took)
        if ending.word == "completed":
            if logger.isEnabledFor(logging.INFO):
                line = "Job %s completed in queue %s in %.0f ms: %s"
                logger.info(line, claim.id, queue, took * 1000, shown_value(ending.value))
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
            )
        else:
            logger.info("Job %s: %s in queue %s: %s", claim.id, ending.word, queue, ending.reason)

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

    def _kept(self, claim: Claim) -> Retention:
        return self._retention.get(queue_of(claim.origin)[0]) or Retention()

    def _put_back(self) -> None:
        known = {ending.claim.exec for ending in self._pending}
        for claim in self.held.values():
            if claim.exec in known:
                continue
            if self.threads.runs(claim):
                reason = "worker shut down"
                self._pending.append(Ending(claim=claim, word="release", reason=reason))
            else:
                self.processes.interrupt(claim, "shutdown")

    def _overdue_threads(self) -> None:
        for ending in self.threads.overdue(time.monotonic()):
            if ending.claim.exec in self.held:
                self._pending.append(ending)
        if self.threads.is_stuck and self._stop_at is None:
            logger.error("A job does not stop at its timeout: the worker will exit, to be replaced")
            self.stop(within=self.config.drain_seconds)

    def _do_chores(self, now: float) -> None:
        try:
            for timer, chore in self._chores:
                if timer.is_up(now):
                    chore()
        except RedisUnavailable as error:
            self._unavailable(error)
        if self._poll.is_up(now):
            self._wants_work = True

    def _renew(self) -> None:
        if not self.held:
            return
        entries = {claim.entry: claim for claim in self.held.values()}
        lost, canceled = self.broker.renew(list(entries), lease=self.config.lease_seconds)
        for entry in canceled & set(entries):
            claim = entries[entry]
            due = self._canceled.setdefault(claim.exec, time.monotonic() + GRACE)
            if time.monotonic() >= due:
                self.processes.interrupt(claim, "canceled")
                if ending := self.threads.cancel(claim):
                    self._pending.append(ending)
        for entry in lost & set(entries):
            claim = entries[entry]
            logger.warning("Job %s: the lease was lost, its end will not count", claim.id)
            self.processes.interrupt(claim, "lease lost")

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

    def _unavailable(self, error: RedisUnavailable) -> None:
        if self._failures == 0:
            logger.warning("%s; running jobs go on, their ends are kept", error)
        first, most = RETRY
        self._retry_at = time.monotonic() + min(most, first * 2**self._failures)
        self._failures += 1
        self._renewal.due = 0  # the leases have aged: first of all when Redis is back
        self.doorbell.close()

    def _reached(self) -> None:
        if self._failures:
            logger.warning("Redis is back after %d tries", self._failures)
        self._failures = 0

    def _wait(self) -> None:
        if self._pending and self._failures == 0:
            return
        now = time.monotonic()
        timers = [timer.due for timer, _ in self._chores]
        deadlines = (self.processes.next_deadline(), self.threads.next_deadline())
        until = min(*timers, self._poll.due, *deadlines)
        if self._failures:
            until = max(self._retry_at, now)
        if self._stop_at is not None:
            until = min(until, max(self._stop_at, now + 0.05))
        sources: list[Any] = [self._readable, *self.processes.watched()]
        has_more = self._wants_work and self._free() and self._stop_at is None
        # With all slots taken a token is for somebody else: a BLPOP under way is only ended.
        if self._free() and not has_more and self._stop_at is None and not self._failures:
            self.doorbell.listen()
        bell = self.doorbell.source
        if bell is not None:
            sources.append(bell)
        self._sleeps = True
        blocked = self.threads.has_ended or (has_more and not self._failures)
        timeout = 0 if blocked else max(0, until - now)
        ready = select.select(sources, [], [], timeout)[0]
        self._sleeps = False
        if self._readable in ready:
            os.read(self._readable, 4096)
        if bell is not None and bell in ready:
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
