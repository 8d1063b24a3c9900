"""The thread executor: runs I/O-bound jobs side by side in the worker's own process.

A thread cannot be killed. A run beyond its timeout is told to stop, its failure is reported, and
one that does not stop counts as stuck: only the end of the worker frees its thread.
"""

from __future__ import annotations

import ctypes
import logging
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from queue import SimpleQueue

from jobserver.broker import Claim, Ending
from jobserver.outcomes import JobCanceled, JobTimeout
from jobserver.runner import failure, perform
from jobserver.server import Server

GRACE = 5.0  # seconds between a run's timeout and its counting as stuck
EXIT = 5.0  # seconds that a worker with stuck threads may take to exit after its drain time

logger = logging.getLogger("jobserver.worker")


@dataclass(slots=True)
class Run:
    """A run as the dispatcher sees it; `thread` is 0 until one has taken it."""

    claim: Claim
    deadline: float  # monotonic
    thread: int = 0
    is_overdue: bool = False
    is_told: bool = False  # its failure has been reported
    raised: type[BaseException] | None = None  # the last interrupt


class Threads:
    """A fixed number of threads; one job each."""

    def __init__(
        self, server: Server, *, slots: int, wake: Callable[[], None], drain: float = 0
    ) -> None:
        """Make an executor whose worker exits `drain` seconds after it was found `is_stuck`."""
        self._server = server
        self._wake = wake
        self._hold = drain + EXIT
        self._inbox: SimpleQueue[Run] = SimpleQueue()
        self._ended: deque[Ending] = deque()
        self._runs: dict[str, Run] = {}  # by execution
        self._current: dict[int, Run] = {}  # what each thread is about, while it may be interrupted
        self._lock = threading.Lock()  # of _current
        self._threads: list[threading.Thread] = []
        self._earliest = float("inf")  # no run's deadline is before that
        self.slots = slots
        self.is_stuck = False

    @property
    def free(self) -> int:
        """How many more runs can be started."""
        return self.slots - len(self._runs)

    def start(self, claim: Claim) -> None:
        """Run a claim in a thread of its own; its end turns up in `ended`."""
        run = Run(claim=claim, deadline=time.monotonic() + claim.timeout)
        self._runs[claim.exec] = run
        self._earliest = min(self._earliest, run.deadline)
        if len(self._threads) < min(self.slots, len(self._runs)):
            thread = threading.Thread(target=self._work, name="job", daemon=True)
            self._threads.append(thread)
            thread.start()
        self._inbox.put(run)

    def ended(self) -> list[Ending]:
        """Return the runs that have ended since the last call, but for those reported before."""
        endings = []
        while self._ended:
            ending = self._ended.popleft()
            run = self._runs.pop(ending.claim.exec, None)
            if run is not None and not run.is_told:
                endings.append(ending)
        return endings

    @property
    def has_ended(self) -> bool:
        """Whether it is time for `ended`: not before all runs have a thread.

        Runs that take no time are over by then too, and can be handed in together.
        """
        return bool(self._ended) and self._inbox.empty()

    def runs(self, claim: Claim) -> bool:
        """Return whether the run is one of this executor's."""
        return claim.exec in self._runs

    def overdue(self, now: float) -> list[Ending]:
        """Interrupt the runs beyond their timeout; return the failures to report before they end.

        A last attempt fails at its deadline. One that will be repeated may first come to its end:
        it is reported when it is stuck, and returns when this worker must have exited.
        """
        endings: list[Ending] = []
        if now < self._earliest:
            return endings
        for run in self._runs.values():
            if now < run.deadline:
                continue
            if not run.is_overdue:
                run.is_overdue = True
                run.deadline = now + GRACE
                ending = self._timed_out(run)
                self.interrupt(run.claim)
                if ending.word == "retry":
                    continue
            else:
                run.deadline = float("inf")
                self.is_stuck = True
                ending = self._timed_out(run)
                ending = ending._replace(delay=max(ending.delay, self._hold))
            if not run.is_told:
                run.is_told = True
                endings.append(ending)
        self._earliest = min((run.deadline for run in self._runs.values()), default=float("inf"))
        return endings

    def next_deadline(self) -> float:
        """Return the monotonic time before which `overdue` has nothing to do."""
        return self._earliest

    def interrupt(self, claim: Claim, error: type[BaseException] = JobTimeout) -> None:
        """Raise `error`, once, in the thread of a run, as soon as it runs Python code again."""
        with self._lock:
            run = self._runs.get(claim.exec)
            if run is None or run.raised is error:
                return
            if self._current.get(run.thread) is run:
                run.raised = error
                _raise_in(run.thread, error)

    def cancel(self, claim: Claim) -> Ending | None:
        """Raise JobCanceled in the thread of a run; return its end when that did not help before.

        It keeps its thread, and is stuck when its timeout is over too.
        """
        run = self._runs.get(claim.exec)
        if run is None or run.is_told:
            return None
        if run.raised is JobCanceled:
            run.is_told = True
            return Ending(claim=claim, word="canceled", reason="it does not stop")
        self.interrupt(claim, JobCanceled)
        return None

    def _timed_out(self, run: Run) -> Ending:
        claim = run.claim
        frame = sys._current_frames().get(run.thread)
        where = "".join(traceback.format_stack(frame)) if frame else "It had not begun.\n"
        message = f"longer than its timeout of {claim.timeout} s"
        return failure(
            claim,
            text=f"The job was here at its timeout:\n{where}JobTimeout: {message}",
            error_type="JobTimeout",
            message=message,
            reason="timeout",
            job_type=self._server.registry.types.get(claim.type),
        )

    def _work(self) -> None:
        run: Run | None = None
        ending: Ending | None = None
        while True:
            # An interrupt can strike anywhere in here until _settle is through: what is not done
            # by then is done again, and a run that had not been told of its end goes back.
            try:
                if run is None:
                    run = self._inbox.get()
                    if self.has_ended:
                        self._wake()
                    run.thread = threading.get_ident()
                    self._current[run.thread] = run
                    ending = perform(self._server, run.claim)
                elif ending is None and run.is_overdue:
                    ending = self._timed_out(run)
                elif ending is None:
                    ending = Ending(claim=run.claim, word="release", reason="interrupted")
                self._settle(run)
                self._ended.append(ending)
                run = ending = None
                if self.has_ended:
                    self._wake()
            except BaseException as error:
                logger.warning("A job was interrupted at its end: %s", type(error).__name__)

    def _settle(self, run: Run) -> None:
        with self._lock:
            self._current.pop(run.thread, None)
        if run.raised:  # and perhaps has not struck: it would hit the next job
            _clear(run.thread)


class _Cleared(BaseException):
    """Takes the place of an interrupt that has not struck."""


def _clear(thread: int) -> None:
    # A null pointer would take an interrupt back too, but after that CPython 3.11 looks for one at
    # every call, in all threads and for good, and under a tracer does not come out of that.
    try:
        _raise_in(thread, _Cleared)
        while True:  # it strikes at once
            pass
    except _Cleared:
        pass


def _raise_in(thread: int, error: type[BaseException]) -> None:
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(error))
