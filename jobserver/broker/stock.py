"""Jobs that stock RQ made, with what only RQ knows: callbacks, repeats, webhooks, dependents.

Our worker claims, ends and recovers them like any other; the rest is RQ's own code, called here.
What RQ keeps private has no public name in rq 3.0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any, Literal, cast

from redis import Redis
from redis.exceptions import WatchError
from rq import Queue as RQQueue
from rq.callbacks import (
    execute_failure_callback,
    execute_stopped_callback,
    execute_success_callback,
)
from rq.exceptions import NoSuchJobError
from rq.group import Group
from rq.job import Job as RQJob
from rq.job import JobStatus
from rq.job_lifecycle import call_exception_handlers
from rq.rate_limit import release_slot
from rq.registry import ReadyJobRegistry
from rq.repeat import Repeat
from rq.serializers import JSONSerializer
from rq.timeouts import TimerDeathPenalty

from jobserver.broker import keys

Word = Literal["finished", "failed", "stopped", "canceled"]

ExceptionHandler = Callable[..., Any]

TRIES = 5  # of a transaction that others disturb
LOOK = 500  # deferred jobs of an RQ queue that one look checks; the next goes on behind them


class StockJob:
    """One job as RQ's own code knows it. Raises redis-py's errors."""

    def __init__(self, connection: Redis, job_id: str) -> None:
        """Read the job; raises NoSuchJobError."""
        self._connection = connection
        self._job = RQJob.fetch(job_id, connection=connection, serializer=JSONSerializer)

    @classmethod
    def find(cls, connection: Redis, job_id: str) -> StockJob | None:
        """Return the job, None when it is gone or was made by us."""
        if connection.hexists(keys.job(job_id), "type"):
            return None
        with suppress(NoSuchJobError):
            return cls(connection, job_id)
        return None

    @property
    def callbacks(self) -> list[str]:
        """The paths of the functions that it wants called."""
        job = self._job
        names = (
            job._success_callback_name,
            job._failure_callback_name,
            job._stopped_callback_name,
        )
        return [name for name in names if name]

    @property
    def patience(self) -> float:
        """Seconds that `ended` and `stopped` may take, by the timeouts of what they call."""
        stopping = self._job.stopped_callback_timeout if self._job._stopped_callback_name else 0
        return stopping + sum(webhook.timeout for webhook in self._job.webhooks)

    @property
    def retry_delay(self) -> float:
        """Seconds to wait before its next attempt, by the Retry that it was enqueued with."""
        return self._job.get_retry_interval() if self._job.retries_left else 0

    def succeeded(self, result: object) -> None:
        """Call its on_success; what that raises is the end of the run instead."""
        self._job._status = JobStatus.FINISHED
        self._job._result = result
        execute_success_callback(self._job, TimerDeathPenalty, result)

    def failed(self, error: BaseException) -> BaseException:
        """Call its on_failure; return the error, or what the callback raised instead."""
        self._job._status = JobStatus.FAILED
        try:
            execute_failure_callback(
                self._job, TimerDeathPenalty, type(error), error, error.__traceback__
            )
        except BaseException as raised:  # it is the run's end, as the job's own would be
            return raised
        return error

    def handle(self, handlers: Sequence[ExceptionHandler], error: BaseException) -> None:
        """Call RQ's exception handlers, until one returns what is false."""
        call_exception_handlers(handlers, self._job, type(error), error, error.__traceback__)

    def ended(self, word: Word) -> None:
        """Free its slot in RQ's rate limit, send its webhooks."""
        job = self._job
        job._status = JobStatus(word)
        release_slot(job)
        result = job.latest_result() if word == "failed" else None
        job.send_webhooks(word, exc_string=result.exc_string if result else None)

    def stopped(self) -> None:
        """Call its on_stopped; raises what that raises."""
        execute_stopped_callback(self._job, TimerDeathPenalty)

    def repeat(self) -> str | None:
        """Enqueue or schedule its next run, once, when it was enqueued with a Repeat; return where.

        None: it has no run left, is gone, or somebody was faster.
        """
        if not self._job.repeats_left:
            return None
        key, job_id, connection = self._job.key, self._job.id, self._connection
        with suppress(NoSuchJobError, WatchError), connection.pipeline() as pipe:
            pipe.watch(key)
            job = RQJob.fetch(job_id, connection=connection, serializer=JSONSerializer)
            if not job.repeats_left or job.get_status(refresh=False) != JobStatus.FINISHED:
                return None
            origin = str(job.origin)
            queue = RQQueue(origin, connection=connection, serializer=JSONSerializer)
            pipe.multi()
            pipe.zrem(keys.registry("finished", origin), job_id)
            pipe.hdel(key, "attempt", "attempts", "progress", "message")
            for kept in (key, keys.results(job_id)):
                pipe.persist(kept)
            Repeat.schedule(job, queue, pipeline=pipe)
            pipe.execute()
            return origin
        return None


class Dependents:
    """The jobs that wait for others (RQ's depends_on). Raises redis-py's errors."""

    def __init__(self, connection: Redis) -> None:
        self._connection = connection
        self._cursors: dict[str, int] = {}  # how far `look_through` has come, by RQ queue

    def enqueue(self, job_id: str, word: Word) -> set[str]:
        """Enqueue the jobs that waited for this end only; return the RQ queues they lie in."""
        parent = RQJob(job_id, connection=self._connection, serializer=JSONSerializer)
        parent._status = JobStatus(word)
        members = self._connection.smembers(_waiting_for(job_id))
        waiting = self._fetch(cast("set[bytes]", members))
        return {str(job.origin) for job in waiting if self._enqueue(job, parent=parent)}

    def hopeless(self, job_id: str, word: Word) -> list[tuple[str, str]]:
        """Return id and origin of the jobs that can never start after this end."""
        if word == "finished":
            return []
        members = self._connection.smembers(_waiting_for(job_id))
        return [
            (job.id, str(job.origin))
            for job in self._fetch(cast("set[bytes]", members))
            if job.get_status(refresh=False) == JobStatus.DEFERRED and not _bears(job, word)
        ]

    def forget(self, job_id: str, dependents: Sequence[str]) -> None:
        """Take jobs off the list of those that wait for this one."""
        if dependents:
            self._connection.srem(_waiting_for(job_id), *dependents)

    def look_through(self, origin: str) -> tuple[bool, list[tuple[str, str, Word]]]:
        """Look for deferred jobs of an RQ queue whose wait is over, though nobody told them.

        Enqueues those that miss nothing; returns whether there were any, and of those that can
        never start id, the job that they wait for, and its end.
        """
        ready = ReadyJobRegistry(origin, connection=self._connection, serializer=JSONSerializer)
        enqueued = bool(ready.cleanup())
        lost: list[tuple[str, str, Word]] = []
        deferred = keys.registry("deferred", origin)
        cursor = self._cursors.get(origin, 0)
        answer = self._connection.zscan(deferred, cursor, count=LOOK)
        self._cursors[origin], found = cast("tuple[int, list[tuple[bytes, float]]]", answer)
        for job in self._fetch(job_id for job_id, _ in found):
            if self._enqueue(job):
                enqueued = True
            elif end := self._bad_end(job):
                lost.append((job.id, *end))
        return enqueued, lost

    def _enqueue(self, job: RQJob, *, parent: RQJob | None = None) -> bool:
        # Not by Queue.enqueue_dependents: of two parents that have both ended, that enqueues a job
        # once for each, since a stock worker ends a parent in the same transaction.
        origin = str(job.origin)
        queue = RQQueue(origin, connection=self._connection, serializer=JSONSerializer)
        with self._connection.pipeline() as pipe:
            for _ in range(TRIES):
                with suppress(WatchError):
                    pipe.watch(job.key)
                    if job.get_status() != JobStatus.DEFERRED or not job.dependencies_are_met(
                        parent, pipeline=pipe, refresh_job_status=False
                    ):
                        return False
                    pipe.multi()
                    pipe.zrem(keys.registry("deferred", origin), job.id)
                    if parent:
                        pipe.srem(parent.dependents_key, job.id)
                    if job.has_rate_limit:
                        queue._enqueue_rate_limited_job(job, pipeline=pipe)
                    else:
                        at_front = job.should_enqueue_at_front()
                        queue._enqueue_job(job, pipeline=pipe, at_front=at_front)
                    pipe.execute()
                    return True
        return False  # somebody else is at it; if not, the next look finds it

    def _bad_end(self, job: RQJob) -> tuple[str, Word] | None:
        """Return a job that this one waits for in vain, and how that ended."""
        with self._connection.pipeline(transaction=False) as pipe:
            for dependency in job._dependency_ids:
                pipe.hget(keys.job(dependency), "status")
            statuses = pipe.execute()
        for dependency, status in zip(job._dependency_ids, statuses, strict=True):
            word = status.decode() if status else ""
            if word in ("failed", "stopped", "canceled") and not _bears(job, word):
                return dependency, cast(Word, word)
        return None

    def _fetch(self, ids: Iterable[bytes]) -> list[RQJob]:
        found = RQJob.fetch_many(
            [job_id.decode() for job_id in ids],
            connection=self._connection,
            serializer=JSONSerializer,
        )
        return [job for job in found if job is not None]


def tidy_groups(connection: Redis, *, interval: int) -> None:
    """Take jobs that are gone out of RQ's groups, once in `interval` seconds of all workers."""
    if Group.acquire_maintenance_lock(connection, interval):
        Group.clean_registries(connection)


def _waiting_for(job_id: str) -> str:
    return f"{keys.job(job_id)}:dependents"


def _bears(job: RQJob, word: str) -> bool:
    """Return whether a job starts though one that it waits for ended so."""
    return word == "failed" and bool(job.allow_dependency_failures)
