"""The thread executor: runs I/O-bound jobs side by side in the worker's own process."""

from __future__ import annotations

import ctypes
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue

from jobserver.broker import Claim, Ending
from jobserver.outcomes import JobTimeout
from jobserver.runner import perform
from jobserver.server import Server

logger = logging.getLogger("jobserver.worker")


class Threads:
    """A fixed number of threads; one job each."""

    def __init__(self, server: Server, *, slots: int, wake: Callable[[], None]) -> None:
        self._server = server
        self._wake = wake
        self._inbox: SimpleQueue[Claim | None] = SimpleQueue()
        self._ended: deque[Ending] = deque()
        self._running: dict[str, int | None] = {}  # exec → thread, None while it waits for one
        self._deadlines: dict[str, tuple[float, Claim]] = {}
        self._threads: list[threading.Thread] = []
        self.slots = slots

    @property
    def free(self) -> int:
        """How many more runs can be started."""
        return self.slots - len(self._running)

    def start(self, claim: Claim) -> None:
        """Run a claim in a thread of its own; its end turns up in `ended`."""
        self._running[claim.exec] = None
        self._deadlines[claim.exec] = (time.monotonic() + claim.timeout, claim)
        if len(self._threads) < min(self.slots, len(self._running)):
            thread = threading.Thread(target=self._work, name="job", daemon=True)
            self._threads.append(thread)
            thread.start()
        self._inbox.put(claim)

    def ended(self) -> list[Ending]:
        """Return the runs that have ended since the last call."""
        endings = []
        while self._ended:
            ending = self._ended.popleft()
            self._running.pop(ending.claim.exec, None)
            self._deadlines.pop(ending.claim.exec, None)
            endings.append(ending)
        return endings

    @property
    def has_ended(self) -> bool:
        """Whether `ended` has something to return."""
        return bool(self._ended)

    def runs(self, claim: Claim) -> bool:
        """Return whether the run is one of this executor's."""
        return claim.exec in self._running

    def overdue(self, now: float) -> list[Claim]:
        """Interrupt the runs that are beyond their timeout; return those it has not yet told."""
        told = []
        for exec_id, (deadline, claim) in list(self._deadlines.items()):
            if now >= deadline:
                del self._deadlines[exec_id]
                self.interrupt(claim)
                told.append(claim)
        return told

    def next_deadline(self) -> float:
        """Return the monotonic time at which `overdue` has something to do."""
        return min((deadline for deadline, _ in self._deadlines.values()), default=float("inf"))

    def interrupt(self, claim: Claim, error: type[BaseException] = JobTimeout) -> None:
        """Raise `error` in the thread of a run, as soon as it runs Python code again."""
        thread = self._running.get(claim.exec)
        if thread is not None:
            ctypes.pythonapi.PyThreadState_SetAsyncExc(
                ctypes.c_ulong(thread), ctypes.py_object(error)
            )

    def _work(self) -> None:
        thread = threading.get_ident()
        while (claim := self._inbox.get()) is not None:
            self._running[claim.exec] = thread
            try:
                ending = perform(self._server, claim)
            except BaseException as error:  # an interrupt that came between two jobs
                logger.warning("job %s: interrupted at its end: %s", claim.id, error)
                ending = Ending(claim=claim, word="release", reason="interrupted")
            self._ended.append(ending)
            self._wake()
