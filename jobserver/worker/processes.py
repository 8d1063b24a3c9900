"""The process executor: warm children, one job at a time each, whose crash costs that job only."""

from __future__ import annotations

import gc
import logging
import os
import pickle
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection

from jobserver.broker import Claim, Ending
from jobserver.broker.job import queue_of
from jobserver.outcomes import JobTimeout
from jobserver.runner import ending_of, failure, perform
from jobserver.server import Server
from jobserver.worker.template import Death, Template

JOBS_PER_CHILD = 1000  # then it is replaced, whatever it leaked
GROWTH_MIB = 200  # beyond what it started with: it is replaced after the job
BY_ORDER = "killed by order"
BROKEN = "the template of its process was killed"  # all its children die with it
GRACE = 5.0  # seconds between the timeout inside the child and SIGKILL

logger = logging.getLogger("jobserver.worker")


@dataclass(slots=True)
class Child:
    """A child as the worker sees it: `claim` is what it runs, `pid` 0 until it has said hello."""

    pipe: Connection
    pid: int = 0
    claim: Claim | None = None
    deadline: float = 0  # monotonic; 0: none
    killed_for: str = ""
    is_gone: bool = False


class Processes:
    """The children of one worker."""

    def __init__(self, server: Server, template: Template, *, slots: int) -> None:
        self._server = server
        self._template = template
        self.slots = slots
        self.is_broken = False  # without its template it starts no more
        self._children: list[Child] = []
        self._deaths: dict[int, Death] = {}
        self._refused: list[Ending] = []

    @property
    def free(self) -> int:
        """How many more runs can be started."""
        return self.slots - sum(1 for child in self._children if child.claim)

    def warm(self, count: int) -> None:
        """Have `count` children ready, so that the first jobs find one."""
        while len(self._children) < min(count, self.slots):
            self._children.append(Child(self._template.fork()))

    def start(self, claim: Claim) -> None:
        """Run a claim in a child; its end turns up in `ended`."""
        child = next((c for c in self._children if c.claim is None and not c.is_gone), None)
        if child is None:
            try:
                child = Child(self._template.fork())
            except OSError:
                self.is_broken = True
                self._refused.append(Ending(claim=claim, word="release", reason=BROKEN))
                return
            self._children.append(child)
        child.claim = claim
        child.deadline = time.monotonic() + claim.timeout + GRACE
        try:
            child.pipe.send_bytes(pickle.dumps(tuple(claim)))
        except OSError:  # it died while idle: the next one takes over
            self._children.remove(child)
            self.start(claim)

    def watched(self) -> Sequence[Connection | Template]:
        """What becomes readable when there is something in `ended`."""
        pipes = [child.pipe for child in self._children if not child.is_gone]
        return pipes if self.is_broken else [*pipes, self._template]

    def ended(self, ready: Sequence[object]) -> list[Ending]:
        """Return the runs that have ended, as far as what is `ready` of `watched` tells."""
        if self._template in ready:
            try:
                self._deaths.update({death.pid: death for death in self._template.deaths()})
            except OSError:
                self.is_broken = True
        # After a death all are read: the dead one's pipe may be held open by a process that its job
        # left behind, and its hello may still be in there.
        news = [
            child
            for child in self._children
            if self._template in ready or child.is_gone or child.pipe in ready
        ]
        if not news and not self._refused:
            return []
        endings = [end for child in news if (end := self._read(child, child.pipe in ready))]
        endings += self._refused
        self._refused = []
        pids = {child.pid for child in self._children}
        self._deaths = {pid: death for pid, death in self._deaths.items() if pid in pids}
        return endings

    def overdue(self, now: float) -> None:
        """Kill the children whose job ignored its timeout."""
        for child in self._children:
            if child.claim and 0 < child.deadline <= now:
                self._kill(child, "timeout")

    def next_deadline(self) -> float:
        """The monotonic time at which `overdue` has something to do."""
        return min((c.deadline for c in self._children if c.claim), default=float("inf"))

    def interrupt(self, claim: Claim, reason: str) -> None:
        """End a run by force."""
        for child in self._children:
            if child.claim and child.claim.exec == claim.exec:
                self._kill(child, reason)

    def _kill(self, child: Child, reason: str) -> None:
        if child.killed_for or not child.pid:
            return  # once is enough: by then its number may be another process's
        child.killed_for = reason
        child.deadline = 0
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)  # and the programs that its job started

    def _read(self, child: Child, is_readable: bool) -> Ending | None:
        # A process that the job left behind may hold the pipe open: the death tells, too. All that
        # the child has sent is there by then.
        is_dead = child.pid in self._deaths
        try:
            while not child.is_gone and (is_readable or child.pipe.poll()):
                is_readable = False
                message = pickle.loads(child.pipe.recv_bytes())  # noqa: S301  # of a process of ours
                if isinstance(message, int):
                    child.pid = message
                    continue
                claim, child.claim, child.deadline = child.claim, None, 0
                is_last, *sent = message
                if is_last:
                    self._children.remove(child)
                    child.pipe.close()
                return Ending(claim, *sent) if claim else None
        except (EOFError, OSError):
            child.is_gone = True
        child.is_gone = child.is_gone or is_dead
        # Its pipe closes before the template has reaped it: the reason comes a moment later.
        if child.is_gone and (child.pid in self._deaths or not child.pid or self.is_broken):
            self._children.remove(child)
            child.pipe.close()
            if child.claim:
                return self._lost(child.claim, self._deaths.pop(child.pid, None), child.killed_for)
        return None

    def _lost(self, claim: Claim, death: Death | None, killed_for: str) -> Ending:
        unseen = BROKEN if self.is_broken else "its process could not start"
        how = death.reason if death else unseen
        reason = killed_for or how
        known = self._server.registry.types.get(claim.type)
        exit_reason, peak_mib = (death.exit_reason, death.peak_mib) if death else ("", 0)
        if killed_for == "canceled":
            ending = Ending(claim=claim, word="canceled", reason=how)
            return ending._replace(exit_reason=exit_reason, peak_mib=peak_mib)
        if killed_for == "shutdown":
            return Ending(claim=claim, word="release", reason="worker shut down")
        timed_out = killed_for == "timeout"
        died = "ProcessDied" if death else "ProcessNotStarted"  # the first counts towards poison
        if killed_for == BY_ORDER:
            died = "ProcessKilled"
        return failure(
            claim,
            text=f"The job's process ended: {how}",
            error_type="JobTimeout" if timed_out else died,
            message=f"longer than {claim.timeout} s" if timed_out else how,
            reason=reason,
            job_type=known,
        )._replace(exit_reason=exit_reason, peak_mib=peak_mib)


def work(server: Server) -> Callable[[Connection], None]:
    """Return what a child does: run the jobs that come through its pipe, until it closes."""

    def serve(pipe: Connection) -> None:
        gc.freeze()  # what the template loaded is shared: a collection would copy its pages
        pipe.send_bytes(pickle.dumps(os.getpid()))
        signal.signal(signal.SIGALRM, _alarm)
        allowed = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss + _maxrss(GROWTH_MIB)
        for number in range(1, JOBS_PER_CHILD + 1):
            try:
                claim = Claim(*pickle.loads(pipe.recv_bytes()))  # noqa: S301  # the worker's
            except (EOFError, OSError):
                return
            limit = _memory_limit(server, claim)
            signal.setitimer(signal.ITIMER_REAL, claim.timeout)
            try:
                with _limited_to(limit) if limit else nullcontext():
                    ending = perform(server, claim)
                signal.setitimer(signal.ITIMER_REAL, 0)
            # A timeout between the job's end and its being noted, or no memory left to note it.
            except (JobTimeout, MemoryError) as error:
                signal.setitimer(signal.ITIMER_REAL, 0)
                known = server.registry.types.get(claim.type)
                ending = ending_of(claim, error, job_type=known)
            ran_out = limit is not None and ending.error_type == "MemoryError"
            if ran_out:
                message = f"beyond its queue's memory_limit of {limit} MiB"
                ending = ending._replace(error_message=message, reason="memory limit")
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            is_last = number == JOBS_PER_CHILD or peak > allowed or threading.active_count() > 64
            is_last = is_last or ran_out
            if ending.word != "completed" or claim.attempt > 1:  # what is kept as an attempt
                ending = ending._replace(peak_mib=peak // _maxrss(1))
            # The worker has the claim: with a large payload, that is most of an ending.
            pipe.send_bytes(pickle.dumps((is_last, *ending[1:])))
            if is_last:
                return

    return serve


def _memory_limit(server: Server, claim: Claim) -> int | None:
    queue = server.registry.queues.get(queue_of(claim.origin)[0])
    return queue.memory_limit if queue else None


@contextmanager
def _limited_to(mib: int) -> Iterator[None]:
    # RLIMIT_DATA (Linux 4.7, setrlimit(2)) counts what the process has to itself; RLIMIT_AS would
    # count every library that is mapped.
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = mib * 1024 * 1024
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (wanted, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def _alarm(signum: int, frame: object) -> None:
    raise JobTimeout("the job ran longer than its timeout")


def _maxrss(mib: int) -> int:
    return mib * (1024 if sys.platform == "linux" else 1024 * 1024)
