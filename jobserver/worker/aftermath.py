"""What follows an end by RQ's own code: dependents, repeats, webhooks; in a thread of its own.

Finish and its like only note that there is more to do; any worker does it, in whichever order, and
what a dying worker leaves undone another one does.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from typing import cast

from redis import Redis

from jobserver.broker.broker import available
from jobserver.broker.job import queue_of
from jobserver.broker.stock import Dependents, StockJob, Word, tidy_groups
from jobserver.errors import RedisUnavailable
from jobserver.listener import EventName
from jobserver.policy import Queue
from jobserver.server import Server

POLL = 1.0  # seconds between two looks while nobody rings
LOOK = 30.0  # seconds between two looks through the deferred jobs
HOOKS = 8  # webhooks under way at a time: an address that does not answer holds up few others

logger = logging.getLogger("jobserver.worker")


class Aftermath:
    """The thread; it goes on by itself when Redis is back."""

    def __init__(self, server: Server, connection: Redis, queues: Sequence[Queue]) -> None:
        self._server = server
        self._connection = connection
        self._broker = server.broker.beside(connection)
        self._dependents = Dependents(connection)
        self._queues = queues
        # Until an entry counts as left undone, what its webhooks may take not counted.
        self._hold = server.config.lease_seconds
        self._bell = threading.Event()
        self._is_over = False
        self._look_at = 0.0  # monotonic
        self._hooks = threading.BoundedSemaphore(HOOKS)
        self._lock = threading.Lock()  # of _attend
        self._followed = self._settled = 0  # entries: in all, and at the last settle

    def start(self) -> None:
        """Begin."""
        threading.Thread(target=self._run, name="aftermath", daemon=True).start()

    def ring(self) -> None:
        """Say that there is something to do; safe from any thread."""
        self._bell.set()

    def close(self) -> None:
        """End after the entry at hand; what is undone another worker does."""
        self._is_over = True
        self._bell.set()

    def settle(self) -> bool:
        """Do all there is to do now, here; return whether anything was done since the last call."""
        try:
            self._attend()
        except RedisUnavailable as error:
            logger.warning("the aftermath of jobs waits: %s", error)
        for _ in range(HOOKS):  # until those under way are through
            self._hooks.acquire()
        self._hooks.release(HOOKS)
        before, self._settled = self._settled, self._followed
        return self._settled > before

    def _attend(self) -> None:
        with self._lock:
            while found := self._broker.aftermath(hold=self._hold):
                self._followed += 1
                entry, mark = found
                word, _, job_id = entry.partition(":")
                with available():
                    self._follow(entry, mark, job_id, cast(Word, word))
            if time.monotonic() >= self._look_at:
                self._look_at = time.monotonic() + LOOK
                with available():
                    self._look_through()

    def _look_through(self) -> None:
        for queue in self._queues:
            for origin in queue.origins:
                enqueued, lost = self._dependents.look_through(origin)
                for job_id, parent, word in lost:
                    self._forfeit(job_id, origin, parent=parent, word=word)
                if enqueued:
                    self._followed += 1
                    self._broker.ring([queue.name])
        tidy_groups(self._connection, interval=int(LOOK))

    def _run(self) -> None:
        is_failing = False
        while not self._is_over:
            try:
                self._attend()
                is_failing = False
            except Exception as error:  # the worker outlives whatever Redis or RQ's code does
                if not is_failing:
                    is_outage = isinstance(error, RedisUnavailable)
                    logger.warning("the aftermath of jobs waits: %s", error, exc_info=not is_outage)
                is_failing = True
            self._bell.wait(POLL)
            self._bell.clear()

    def _follow(self, entry: str, mark: float, job_id: str, word: Word) -> None:
        origins = self._dependents.enqueue(job_id, word)
        self._broker.ring(queue_of(origin)[0] for origin in origins)
        hopeless = self._dependents.hopeless(job_id, word)
        for dependent, origin in hopeless:
            self._forfeit(dependent, origin, parent=job_id, word=word)
        self._dependents.forget(job_id, [dependent for dependent, _ in hopeless])
        job = StockJob.find(self._connection, job_id)
        if job is None:
            self._broker.done(entry, mark)
        elif not job.patience:
            self._end(entry, mark, job, word)
        elif kept := self._broker.keep(entry, mark, hold=self._hold + job.patience):
            self._hooks.acquire()
            work = (entry, kept, job, word)
            threading.Thread(target=self._end_and_free, args=work, daemon=True).start()

    def _end_and_free(self, entry: str, mark: float, job: StockJob, word: Word) -> None:
        try:
            self._end(entry, mark, job, word)
        except Exception as error:  # it is done again when its time is up
            logger.warning("the aftermath of %s failed: %s", entry, error, exc_info=True)
        finally:
            self._hooks.release()

    def _end(self, entry: str, mark: float, job: StockJob, word: Word) -> None:
        job.ended(word)
        if word == "finished" and (origin := job.repeat()):
            self._broker.ring([queue_of(origin)[0]])
        if word == "stopped":
            self._call_back(entry, job)
        self._broker.done(entry, mark)

    def _call_back(self, entry: str, job: StockJob) -> None:
        try:
            for path in job.callbacks:
                self._server.registry.check_callback(path)
            with self._server.app.app_context():
                job.stopped()
        except Exception as error:  # it is the application's, and changes nothing of the job
            logger.error("on_stopped of %s failed: %r", entry, error)

    def _forfeit(self, job_id: str, origin: str, *, parent: str, word: Word) -> None:
        outcome: EventName = "failed" if word == "failed" else "canceled"
        why = (
            f"job {parent}, which it waits for, {'failed' if word == 'failed' else 'was canceled'}"
        )
        name = queue_of(origin)[0]
        known = self._server.registry.queues.get(name) or Queue(name)
        if self._broker.forfeit(job_id, outcome, why=why, retention=known.retention):
            logger.warning("Job %s %s in queue %s: %s", job_id, outcome, name, why)
            self._server.tell(job_id, outcome)
