"""Listeners: functions of the application that are told what becomes of jobs.

They are called in a thread of their own, of the process that notes the event, and never hold up a
job. What is under way when the process is killed is told to nobody: who must miss nothing reads
the event stream.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, replace
from queue import Full, Queue
from typing import Literal, get_args

from jobserver.errors import DeclarationInvalid

EventName = Literal["completed", "failed", "retry", "canceled", "stalled", "poison"]

NAMES: tuple[EventName, ...] = get_args(EventName)
BACKLOG = 10_000  # events that wait for slow listeners; more are dropped, and counted in the log

logger = logging.getLogger("jobserver.listener")


@dataclass(frozen=True, kw_only=True, slots=True)
class JobEvent:
    """What became of a run. `seconds` is how long it ran, `attempt` counts from 1.

    `completed`; `failed` for good; `retry`, failed and to be repeated; `canceled`; `stalled`, its
    worker was lost; `poison`, failed because it ended its process three times, and told as `failed`
    too.
    """

    name: EventName
    job_id: str
    run_id: str
    type: str
    queue: str
    attempt: int
    attempts: int
    seconds: float
    error_type: str
    error_message: str


@dataclass(frozen=True, kw_only=True)
class Listener:
    """A declared listener: a function, which can still be called, and the events it is told."""

    function: Callable[[JobEvent], object]
    names: tuple[EventName, ...]

    def __call__(self, event: JobEvent) -> object:
        """Call the function, as a test of it does."""
        return self.function(event)


def on(*names: EventName) -> Callable[[Callable[[JobEvent], object]], Listener]:
    """Declare a listener in a module of job types: `@on("failed")`; it gets a JobEvent.

    Raises DeclarationInvalid for an unknown event.
    """
    if not names or any(name not in NAMES for name in names):
        raise DeclarationInvalid(f"on{names!r} is not accepted: use {', '.join(NAMES)}")

    def declare(function: Callable[[JobEvent], object]) -> Listener:
        return Listener(function=function, names=names)

    return declare


class Listeners:
    """The listeners of an application, and the thread of this process that calls them."""

    def __init__(
        self,
        listeners: Iterable[Listener],
        *,
        context: Callable[[], AbstractContextManager[object]],
    ) -> None:
        """Make them known, with what is entered around each call; `tell` starts the thread."""
        self._by_name: dict[EventName, list[Callable[[JobEvent], object]]] = {}
        for listener in listeners:
            for name in listener.names:
                self._by_name.setdefault(name, []).append(listener.function)
        self._context = context
        self._waiting: Queue[JobEvent | None] = Queue(BACKLOG)
        self._lock = threading.Lock()  # of _thread
        self._thread: threading.Thread | None = None
        self._dropped = 0

    @property
    def are_any(self) -> bool:
        """Whether there is anybody to tell."""
        return bool(self._by_name)

    def tell(self, event: JobEvent) -> None:
        """Have the listeners of an event called; safe from any thread, waits for none of them."""
        if event.name == "failed" and event.error_type == "Poison":
            self.tell(replace(event, name="poison"))
        if event.name not in self._by_name:
            return
        with self._lock:
            if (
                self._thread is None or not self._thread.is_alive()
            ):  # a fork brings no threads along
                self._thread = threading.Thread(target=self._run, name="listeners", daemon=True)
                self._thread.start()
        try:
            self._waiting.put_nowait(event)
        except Full:
            self._dropped += 1
            if self._dropped == 1:
                logger.error("Listeners are too slow: events are dropped")

    def close(self, *, within: float) -> None:
        """Call what is still to be called, for `within` seconds at most."""
        if self._thread is None:
            return
        with suppress(Full):
            self._waiting.put(None, timeout=within)
        self._thread.join(within)
        if self._thread.is_alive():
            logger.error("Listeners are too slow: %d events are dropped", self._waiting.qsize())
        self._thread = None

    def _run(self) -> None:
        while (event := self._waiting.get()) is not None:
            for function in self._by_name.get(event.name, ()):
                try:
                    with self._context():
                        function(event)
                except BaseException:  # it is the application's; a SystemExit too ends nothing
                    logger.exception(
                        "A listener failed with the %s of %s", event.name, event.job_id
                    )
            if self._dropped and self._waiting.empty():
                logger.error("Listeners are fast enough again: %d events dropped", self._dropped)
                self._dropped = 0
