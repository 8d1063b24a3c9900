"""What a running job says of itself: how far it is.

At most ten writes a second reach Redis, and the fewer the longer the run takes.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property

from jobserver.errors import RedisUnavailable
from jobserver.outcomes import JobCanceled
from jobserver.redaction import masked
from jobserver.transcript import Transcript, Write

INTERVAL = 0.1  # seconds between two writes at least; each is an event too
SHARE = 0.01  # of the time that a run has taken, between two writes: what moves a bar visibly
LONGEST = 5.0  # seconds between two writes at most; cancellations are seen as often
LOOK = 1.0  # seconds between two looks whether the run should stop
MESSAGE_CHARS = 1000  # every message is an event too

logger = logging.getLogger("jobserver.progress")

Report = Callable[[float, str], str]
Look = Callable[[], str]


@dataclass(frozen=True, kw_only=True)
class Run:
    """The run that this thread works on; `attempt` counts from 1.

    `scheduled_at` is the time (UTC) that a tick's run was due for, None for all others. `secrets`
    are what the payload's marked fields hold, and those of the settings, to be masked in what is
    told of the run. `write` keeps lines that the job logs.
    """

    id: str
    run_id: str
    type: str
    attempt: int
    attempts: int
    reporter: Reporter
    trace: str = ""
    secrets: tuple[str, ...] = ()
    write: Write | None = None
    scheduled_at: datetime | None = None

    @cached_property
    def transcript(self) -> Transcript:
        """The lines that the job logs, from the first one on."""
        return Transcript(self.write or (lambda dropped, lines: None), secrets=self.secrets)

    def close(self) -> None:
        """Write the last lines, if the job has logged any."""
        if "transcript" in self.__dict__:
            self.transcript.close()


class Reporter:
    """Passes a run's progress on, thinned; the last word always gets through.

    `report` writes, `look` only reads; both answer 'ok', 'canceled' or 'lost'.
    """

    def __init__(self, report: Report, look: Look) -> None:
        self._report = report
        self._look = look
        self._lock = threading.Lock()
        self._began = time.monotonic()
        self._written_at = 0.0  # monotonic
        self._looked_at = -LOOK  # monotonic
        self._pending: tuple[float, str] | None = None
        self._timer: threading.Timer | None = None
        self._percent = 0.0
        self._has_said = False
        self._stopped_by: str | None = None

    def say(self, percent: float, message: str) -> None:
        """Report a percentage; raises JobCanceled when the run was canceled or is not ours now."""
        self._has_said = True
        with self._lock:
            if percent > self._percent:  # not so for nan either
                self._percent = min(100.0, percent)
            self._pending = (self._percent, message[:MESSAGE_CHARS])
            self._write_in_time()
            if self._stopped_by:
                raise JobCanceled(self._stopped_by)

    def stop_requested(self) -> bool:
        """Return whether the run should stop; asks Redis at most once a second."""
        with self._lock:
            is_old = time.monotonic() - max(self._looked_at, self._written_at) >= LOOK
            if self._stopped_by is None and is_old:
                try:
                    self._heed(self._look())
                except RedisUnavailable as error:
                    logger.warning("not known whether the run was canceled: %s", error)
                self._looked_at = time.monotonic()
            return self._stopped_by is not None

    def close(self) -> None:
        """Write the last word, and end."""
        if not self._has_said:
            return
        with self._lock:
            if self._timer:
                self._timer.cancel()
                self._timer = None
            self._write()

    def _write_in_time(self) -> None:
        age = self._written_at - self._began
        interval = min(LONGEST, max(INTERVAL, SHARE * age))
        wait = self._written_at + interval - time.monotonic()
        if wait <= 0:
            self._write()
        elif self._timer is None:
            self._timer = threading.Timer(wait, self._come_due)
            self._timer.daemon = True
            self._timer.start()

    def _come_due(self) -> None:
        with self._lock:
            self._timer = None
            if self._pending:  # else the job itself came first
                self._write_in_time()

    def _write(self) -> None:
        if self._pending is None:
            return
        (percent, message), self._pending = self._pending, None
        self._written_at = time.monotonic()
        try:
            self._heed(self._report(percent, message))
        except RedisUnavailable as error:
            logger.warning("progress not written: %s", error)

    def _heed(self, answer: str) -> None:
        if answer == "canceled":
            self._stopped_by = "the job was canceled"
        elif answer == "lost":
            self._stopped_by = "the run was handed to another worker"


_run: ContextVar[Run | None] = ContextVar("jobserver_run", default=None)


@contextmanager
def entered(run: Run) -> Iterator[None]:
    """Make `run` the current run of this context; its last word is written at the end."""
    mark = _run.set(run)
    try:
        yield
    finally:
        run.reporter.close()
        run.close()
        _run.reset(mark)


def current_run() -> Run | None:
    """Return the run that this code is part of, None outside a job."""
    return _run.get()


def scheduled_at() -> datetime | None:
    """Return the time (UTC) that this job's tick was due for, however late it runs.

    None outside a job, in one that no recurring entry made, and under a stock `rq worker`.
    """
    run = _run.get()
    return run.scheduled_at if run else None


def progress(done: float, total: float | None = None, *, message: str = "") -> None:
    """Say how far the job is: `progress(30)` per cent, or `progress(3, 10)` of the work.

    Never falls within an attempt. Outside a job it does nothing. Raises JobCanceled when the job
    was canceled meanwhile.
    """
    run = _run.get()
    if run is None:
        return
    percent = done if total is None else 100 * done / total if total else 100
    run.reporter.say(percent, masked(message, run.secrets) if message else "")


def cancel_requested() -> bool:
    """Return whether the job this code is part of should stop, as was so a second ago at most.

    It should when somebody canceled it, or when the run was handed to another worker. Without Redis
    the last answer stands.
    """
    run = _run.get()
    return run is not None and run.reporter.stop_requested()
