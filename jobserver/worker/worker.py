"""The worker class for `rq worker`: RQ's command line and registration around our dispatcher."""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
import time
from collections.abc import Sequence
from types import FrameType
from typing import Any

from redis import Redis
from rq import Queue as RQQueue
from rq.defaults import DEFAULT_LOGGING_DATE_FORMAT, DEFAULT_LOGGING_FORMAT
from rq.serializers import JSONSerializer
from rq.suspension import WORKERS_SUSPENDED
from rq.worker import BaseWorker, WorkerStatus
from rq.worker.base import DequeueStrategy

from jobserver import current, log
from jobserver.broker.broker import available
from jobserver.broker.connection import sibling
from jobserver.broker.doorbell import Doorbell
from jobserver.broker.job import queue_of
from jobserver.errors import JobServerError
from jobserver.policy import Queue
from jobserver.server import Server
from jobserver.worker.aftermath import Aftermath
from jobserver.worker.dispatcher import Dispatcher
from jobserver.worker.orders import Orders
from jobserver.worker.processes import Processes, work
from jobserver.worker.rq_options import unused
from jobserver.worker.template import Template
from jobserver.worker.threads import Threads
from jobserver.worker.watchdog import Watchdog

TIMEOUT = 5.0  # seconds for one command of the dispatcher
STUCK = 3  # exit code of a worker that must be replaced: a thread is stuck, or its template gone
LISTENING = 3.0  # seconds that listeners have for what is still to be told at the end
FAILED = 1  # exit code of one that cannot go on: its runs are recovered elsewhere
STATISTICS = 30.0  # seconds between two statistics lines (seed S1)

logger = logging.getLogger("jobserver.worker")


class Worker(BaseWorker):
    """Runs the jobs of some queues, or, when told `default` only, of all that are declared."""

    queue_class = RQQueue

    def __init__(
        self,
        queues: Sequence[RQQueue | str],
        name: str | None = None,
        connection: Redis | None = None,
        concurrency: int | None = None,
        **options: Any,
    ) -> None:
        """Take what `rq worker` passes; `concurrency` is how many jobs run here at a time.

        It counts jobs of thread queues and jobs of process queues apart.
        """
        # The template is forked from here: before threads, and before the app has connections.
        current.answer_no_requests()
        self.server: Server = current.server()
        if connection is None:
            connection = self.server.broker.connection
        names = [queue if isinstance(queue, str) else queue.name for queue in queues]
        self.served = _served(self.server, names)
        self._concurrency = concurrency
        self._unused = unused(options)
        own = sibling(connection, timeout=TIMEOUT)
        options.update(serializer=JSONSerializer, queue_class=RQQueue, job_class=None)
        origins = [origin for queue in self.served for origin in queue.origins] if queues else []
        super().__init__(
            [RQQueue(origin, connection=own, serializer=JSONSerializer) for origin in origins],
            name=name,
            connection=own,
            **options,
        )
        self._last_statistics = time.monotonic()
        self._reported = (0, 0, 0.0)
        self._is_suspended = False

    def _set_connection(self, connection: Redis) -> Redis:
        return connection  # RQ would set a timeout of minutes, for its BLPOP

    def work(
        self,
        burst: bool = False,
        logging_level: str | None = None,
        date_format: str = DEFAULT_LOGGING_DATE_FORMAT,
        log_format: str = DEFAULT_LOGGING_FORMAT,
        max_jobs: int | None = None,
        max_idle_time: int | None = None,
        with_scheduler: bool = False,
        dequeue_strategy: DequeueStrategy = DequeueStrategy.DEFAULT,
    ) -> bool:
        """Work until told to stop; return whether any job ended.

        Delayed jobs come due without `with_scheduler`.
        """
        config = self.server.config
        formatter = None
        if (log_format, date_format) != (DEFAULT_LOGGING_FORMAT, DEFAULT_LOGGING_DATE_FORMAT):
            formatter = log.Masked(log_format, date_format=date_format, secrets=config.secrets())
        lines = log.start(config, level=logging_level, formatter=formatter)
        for line in (*self._unused, *unused({"dequeue_strategy": dequeue_strategy})):
            logger.warning(line)
        self.server.exception_handlers = tuple(self._exc_handlers)  # before children are forked
        template = Template(work(self.server))
        broker = self.server.broker.beside(sibling(self.connection, timeout=TIMEOUT))
        doorbell = Doorbell(sibling(self.connection, timeout=TIMEOUT), self._names())
        threads = Threads(
            self.server,
            slots=self._thread_slots,
            wake=lambda: dispatcher.wake(),
            drain=config.drain_seconds,
        )
        processes = Processes(self.server, template, slots=self._process_slots)
        # Its leases are gone by then, even if the dispatcher waited for a hanging Redis before.
        watchdog = Watchdog(patience=config.lease_seconds + 2 * TIMEOUT)
        aftermath = Aftermath(self.server, sibling(self.connection, timeout=TIMEOUT), self.served)
        dispatcher = Dispatcher(
            broker,
            config,
            name=self.name,
            queues=self.served,
            threads=threads,
            processes=processes,
            doorbell=doorbell,
            heartbeat=self._beat,
            watchdog=watchdog,
            aftermath=aftermath,
            lines=lines,
            listeners=self.server.listeners,
            recovered=self.server.tell_recovered,
        )
        self._listen(dispatcher)
        processes.warm(config.worker_processes)
        orders = Orders(
            self.server, sibling(self.connection, timeout=TIMEOUT), dispatcher, name=self.name
        )
        with available():
            self.register_birth()  # type: ignore[no-untyped-call]  # RQ types it not
        self._warn_of_eviction()
        gc.freeze()  # what is loaded stays: no collection need look at it
        logger.info("Queue Worker is now running: %s on %s", self.name, ", ".join(self._names()))
        try:
            aftermath.start()
            orders.start()
            done = dispatcher.run(burst=burst, max_jobs=max_jobs, max_idle=max_idle_time)
            while burst and aftermath.settle():  # it may have made new jobs
                done = dispatcher.run(burst=True, max_jobs=max_jobs, max_idle=max_idle_time)
        except Exception:
            # What is missing here, memory for one, a common exit would miss too, or wait for it.
            try:
                logger.exception("Queue Worker fails: %s", self.name)
            finally:
                os._exit(FAILED)
        finally:
            orders.close()
            aftermath.close()
            self.server.listeners.close(within=LISTENING)
            watchdog.close()
            signal.set_wakeup_fd(-1)
            template.close()
            self._leave()
        logger.info("Queue Worker has stopped: %s", self.name)
        if (
            threads.is_stuck or processes.is_broken
        ):  # a common exit could wait for what the stuck job has started
            logging.shutdown()
            os._exit(STUCK)
        return done > 0

    def _names(self) -> list[str]:
        return [queue.name for queue in self.served]

    @property
    def _process_slots(self) -> int:
        return self._slots("process", self.server.config.worker_processes)

    @property
    def _thread_slots(self) -> int:
        return self._slots("thread", self.server.config.worker_concurrency)

    def _slots(self, executor: str, configured: int) -> int:
        is_served = any(queue.executor == executor for queue in self.served)
        return (self._concurrency or configured) if is_served else 0

    def _listen(self, dispatcher: Dispatcher) -> None:
        def stop(signum: int, frame: FrameType | None) -> None:
            again = self._stop_requested
            self._stop_requested = True
            within = 0.0 if again else self.server.config.drain_seconds
            dispatcher.stop(within=within)

        signal.set_wakeup_fd(dispatcher.wakeup_fd, warn_on_full_buffer=False)
        signal.signal(signal.SIGINT, stop)
        signal.signal(signal.SIGTERM, stop)

    def _beat(self, dispatcher: Dispatcher) -> None:
        """Tell RQ's readers that this worker lives, what it does and what it has done."""
        tally = dispatcher.tally
        failed = tally["failed"] + tally["retry"]
        now = (tally["completed"], failed, dispatcher.busy_seconds)
        state = WorkerStatus.SUSPENDED if self._is_suspended else WorkerStatus.IDLE
        if dispatcher.held:
            state = WorkerStatus.BUSY
        with available(), self.connection.pipeline(transaction=False) as pipe:
            self.heartbeat(pipeline=pipe)
            pipe.hset(self.key, mapping={**self.serialize(), "state": state})
            pipe.hset(self.key, "process_slots", str(self._process_slots))
            pipe.hset(self.key, "thread_slots", str(self._thread_slots))
            pipe.hincrby(self.key, "successful_job_count", now[0] - self._reported[0])
            pipe.hincrby(self.key, "failed_job_count", now[1] - self._reported[1])
            pipe.hincrbyfloat(self.key, "total_working_time", now[2] - self._reported[2])
            pipe.sadd(self.redis_workers_keys, self.key)
            pipe.exists(WORKERS_SUSPENDED)
            self._is_suspended = bool(pipe.execute()[-1])
        self._reported = now
        if time.monotonic() - self._last_statistics >= STATISTICS:
            self._last_statistics = time.monotonic()
            logger.info(
                "Worker statistics: %d completed, %d failed, %d put off, %d running",
                *now[:2],
                tally["snooze"] + tally["limited"],
                len(dispatcher.held),
            )

    def _warn_of_eviction(self) -> None:
        with available():
            memory = self.connection.info("memory")
        policy = memory.get("maxmemory_policy", "noeviction")
        if policy != "noeviction":
            logger.warning("Redis may drop jobs: maxmemory-policy is %r, not 'noeviction'", policy)

    def _leave(self) -> None:
        try:
            with available():
                self.register_death()  # type: ignore[no-untyped-call]  # RQ types it not
        except JobServerError as error:
            logger.warning("not signed off: %s", error)


def _served(server: Server, names: Sequence[str]) -> list[Queue]:
    """Return the queues that a command line names; `default` alone, or none, means all."""
    known = server.registry.queues
    if set(names) <= {"default"} and "default" not in known:
        return list(known.values())
    try:
        found = [server.registry.queue(queue_of(name)[0]) for name in names]
    except JobServerError as error:
        sys.exit(f"{error}; declared are {', '.join(sorted(known))}")
    return list(dict.fromkeys(found))
