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

from jobserver.broker import EnqueueRequest, keys
from jobserver.broker.entries import DUE, SCHEDULERS, Entries, Entry, Tick
from jobserver.errors import JobServerError
from jobserver.ids import new_id
from jobserver.policy import DAY, HOUR, MINUTE
from jobserver.scheduler.chores import Chore, Chores
from jobserver.scheduler.housekeeping import chores
from jobserver.server import Server

PASS = 1.0  # seconds between two looks at the entries, at most
BEAT_TTL = 15.0  # seconds after which a silent scheduler counts as gone

logger = logging.getLogger(__name__)

_UNITS = {"_minutes": MINUTE, "_hours": HOUR, "_days": DAY}


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
        self.entries = Entries(server.broker)
        self._parked: dict[str, str] = {}
        self._declared_at: float | None = None  # monotonic time
        self._beat_at = -PASS
        self._wait = PASS

    def run(self, burst: bool = False) -> None:
        """Serve until SIGTERM or SIGINT; with `burst`, do one pass of everything and return.

        Needs an app context when the server's db is Flask-SQLAlchemy.
        """
        schedule, housekeeping = Chore("scheduling", self._pass), chores(self.server)
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
                is_well = schedule.attempt()
                time.sleep(self._wait if is_well else PASS)
        finally:
            threads.stop(timeout=0.3)
            self.server.listeners.close(within=1)
            if schedule.failing is None:
                Chore("retiring", self.register_death).attempt()

    def declared(self) -> list[Entry]:
        """Return the registry's entries, with the intervals that the configuration sets."""
        return [
            Entry(
                id=entry.id,
                type=entry.job.name,
                seconds=self._seconds(entry.setting, entry.seconds),
                payload=entry.payload,
            )
            for entry in self.server.registry.entries.values()
        ]

    def enqueue_jobs(self) -> list[str]:
        """Make the jobs of all entries that are due; return their ids.

        An entry that missed ticks makes one job for all of them and goes on on its grid.
        """
        due = self.entries.due()
        self._wait = PASS if due.upcoming is None else min(PASS, due.upcoming - due.now)
        ticks = [
            Tick(entry=entry, due=at, following=entry.after(due.now), request=request)
            for entry, at in due.entries
            if (request := self._request(entry, at)) is not None
        ]
        if not ticks:
            return []
        self._wait = 0  # there may be more than one look shows
        made = [
            tick.request.id
            for tick, is_made in zip(ticks, self.entries.tick(ticks), strict=True)
            if is_made
        ]
        for job_id in made:
            logger.info("scheduler %s enqueued %s", self.name, job_id)
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
        return len(self.entries.all())

    def __contains__(self, item: object) -> bool:
        return any(entry.id == item for entry, _ in self.entries.all())

    def _refuse(self, *_: object, **__: object) -> NoReturn:
        raise JobServerError(
            "rq_scheduler's entries are not kept here: declare a recurring job as an Every(...) in "
            "a jobs module, enqueue a delayed one with delay= or at="
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
        # Again each minute: a server that lost its data gets the entries back.
        if self._declared_at is None or now - self._declared_at >= MINUTE:
            self.entries.declare(self.declared(), prune=self._declared_at is None)
            self._declared_at = now
        self.enqueue_jobs()

    def _seconds(self, setting: str | None, seconds: float) -> float:
        value = getattr(self.server.config, setting) if setting else None
        if setting is None or not value:
            return seconds
        unit = next((unit for suffix, unit in _UNITS.items() if setting.endswith(suffix)), 1)
        return float(value) * unit

    def _request(self, entry: Entry, due: float) -> EnqueueRequest | None:
        tick = f"{entry.id}-{due:.0f}"
        try:
            kind = self.server.registry.job_type(entry.type)
            settings = self.server.settings(kind)
            return self.server.request(
                kind,
                entry.payload,
                key=tick,
                call=tick,
                scheduled_at=due,
                trace=tick,
                settings=settings,
            )
        except JobServerError as error:
            # It stays due: a scheduler that knows the type (rolling deploy) makes the tick.
            if self._parked.get(entry.id) != str(error):
                logger.error("recurring entry %s waits: %s", entry.id, error)
                self._parked[entry.id] = str(error)
            return None

    def _install_signal_handlers(self) -> None:
        def stop(_signal: int, _frame: FrameType | None) -> None:
            # Anywhere, also in a wait for Redis: every step of this process may be killed.
            logger.info("scheduler %s ends", self.name)
            raise SystemExit(0)

        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, stop)
            signal.signal(signal.SIGTERM, stop)
