"""Recurring entries: each tick enqueues one job, however many schedulers run or are killed."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import time
from types import FrameType
from typing import NoReturn

import rq_scheduler  # type: ignore[import-untyped]

from jobserver.broker import keys
from jobserver.broker.entries import DUE, SCHEDULERS, Firing
from jobserver.broker.entry import Entry
from jobserver.errors import JobServerError
from jobserver.ids import new_id
from jobserver.policy import MINUTE
from jobserver.scheduler.chores import Chore, Chores
from jobserver.scheduler.housekeeping import chores
from jobserver.server import Server

PASS = 2.0  # seconds between two looks at entries of which none is due, and between two beats
RETRY = 1.0  # seconds after an error
BEAT_TTL = 15.0  # seconds after which a silent scheduler counts as gone

logger = logging.getLogger(__name__)


class Scheduler(rq_scheduler.Scheduler):  # type: ignore[misc]  # it ships no types
    """RQ-scheduler's class on keys of its own: a stock `rqscheduler` beside it finds nothing."""

    redis_scheduler_namespace_prefix = f"{keys.OURS}scheduler:"
    scheduler_key = SCHEDULERS
    scheduler_lock_key = f"{keys.OURS}scheduler-lock"
    scheduled_jobs_key = DUE

    def __init__(self, server: Server, *, name: str | None = None) -> None:
        super().__init__(
            connection=server.broker.connection,
            interval=PASS,
            name=name or f"{socket.gethostname()}-{os.getpid()}-{new_id()[-4:]}",
        )
        self.log = logger
        self.server = server
        self.entries = server.schedules.entries
        self._parked: dict[str, str] = {}
        self._declared_at: float | None = None  # monotonic time
        self._beat_at = -PASS
        self._wait = PASS

    def run(self, burst: bool = False) -> None:
        """Serve until SIGTERM or SIGINT; with `burst`, do one pass of everything and return.

        Needs an app context when the server's db is Flask-SQLAlchemy.
        """
        schedule, housekeeping = Chore("scheduling", self._pass), chores(self.server)
        waiting = Chore("waiting for the next tick", self._rest)
        if burst:
            for chore in (schedule, *housekeeping):
                chore.attempt()
            return
        self._install_signal_handlers()
        logger.info("scheduler %s serves %d entries", self.name, len(self.declared()))
        threads = Chores(housekeeping)
        threads.start()
        try:
            while True:
                if not (schedule.attempt() and waiting.attempt()):
                    time.sleep(RETRY)
        finally:
            threads.stop(timeout=0.3)
            self.server.listeners.close(within=1)
            if schedule.failing is waiting.failing is None:
                Chore("retiring", self.register_death).attempt()

    def declared(self) -> list[Entry]:
        """Return the registry's entries, with the intervals that the configuration sets."""
        entries = self.server.registry.entries.values()
        return [recurring.entry(self.server.config) for recurring in entries]

    def enqueue_jobs(self) -> list[str]:
        """Make the jobs of all entries that are due; return their ids.

        What they missed is treated by their misfire policies; they go on on their grids. One that
        cannot be fired is put off, with its reason, and holds up no other.
        """
        due = self.entries.due()
        self._wait = PASS if due.upcoming is None else (due.upcoming - due.now) / 1000
        if not due.entries:
            return []
        self._wait = 0  # there may be more than one look shows
        firings: list[Firing] = []
        parked: list[tuple[str, int, str]] = []
        for name, tick, entry in due.entries:
            try:
                firings += self._firings(entry, tick, now=due.now)
            except Exception as error:  # a schema can hold code of its own
                parked.append((name, tick, f"{type(error).__name__}: {error}"))
        self._park(parked)
        made = []
        for firing, fired in zip(firings, self.server.schedules.fire(firings), strict=True):
            if fired.word == "made":
                logger.info("scheduler %s enqueued %s", self.name, fired.job)
                made.append(fired.job)
            elif fired.word == "skipped":
                logger.info("schedule %s skipped a tick: %s runs", firing.entry.id, fired.job)
            if fired.word != "passed" and firing.step and firing.step.missed:
                logger.warning("schedule %s missed %d", firing.entry.id, firing.step.missed)
        return made

    def register_birth(self) -> None:
        """Note that this scheduler lives."""
        self.heartbeat()

    def register_death(self) -> None:
        """Forget this scheduler."""
        self.entries.retire(self.name)

    def heartbeat(self) -> None:
        """Note that this scheduler lives, for health checks and operators."""
        facts = {"pid": str(self.pid), "host": socket.gethostname()}
        self.entries.beat(self.name, ttl=BEAT_TTL, facts=facts)

    def count(self, until: None = None) -> int:
        """Return how many recurring entries there are."""
        return len(self.entries.ids())

    def __contains__(self, item: object) -> bool:
        return item in self.entries.ids()

    def _refuse(self, *_: object, **__: object) -> NoReturn:
        raise JobServerError(
            "rq_scheduler's entries are not kept here: declare a recurring job as an Every(...) or "
            "Cron(...) in a jobs module, enqueue a delayed one with delay= or at="
        )

    # Each would treat entries as pickled jobs, or drop those without a job hash: all of ours.
    schedule = cron = enqueue_at = enqueue_in = cancel = change_execution_time = _refuse
    get_jobs = get_jobs_to_queue = get_queue_for_job = enqueue_job = _create_job = _refuse
    acquire_lock = remove_lock = _refuse

    def _pass(self) -> None:
        now = time.monotonic()
        if now - self._beat_at >= PASS:
            self.heartbeat()
            self._beat_at = now
        if self._declared_at is None:
            self.entries.declare(self.declared(), prune=True)
            self._declared_at = now
        elif now - self._declared_at >= MINUTE:
            # Not what they are now: another release may have declared them since (rolling deploy).
            if self.entries.are_lost():
                self.entries.declare(self.declared(), prune=False)
            self._declared_at = now
        self.enqueue_jobs()

    def _rest(self) -> None:
        if self._wait > 0:
            self.entries.wait(self._wait)

    def _firings(self, entry: Entry | ValueError, tick: int, *, now: int) -> list[Firing]:
        if isinstance(entry, ValueError):
            raise entry
        steps = entry.steps(tick, now=now)
        return [self.server.schedules.firing(entry, step) for step in steps]

    def _park(self, parked: list[tuple[str, int, str]]) -> None:
        self.entries.park(parked)
        for name, _, reason in parked:
            if self._parked.get(name) != reason:
                logger.error("schedule %s is put off: %s", name, reason)
                self._parked[name] = reason

    def _install_signal_handlers(self) -> None:
        def stop(_signal: int, _frame: FrameType | None) -> None:
            # Anywhere, also in a wait for Redis: every step of this process may be killed.
            logger.info("scheduler %s ends", self.name)
            raise SystemExit(0)

        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, stop)
            signal.signal(signal.SIGTERM, stop)
