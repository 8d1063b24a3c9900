"""The job server: the verbs of jobs and queues. What makes it a Flask extension is in app.py."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import datetime, timedelta
from typing import Any

from flask import Flask
from rq.defaults import RQ_KEY_PREFIX
from sqlalchemy.orm import Session, scoped_session

from jobserver.broker import (
    Answer,
    Broker,
    Claim,
    EnqueueRequest,
    Job,
    QueueState,
    Recovery,
    connect,
)
from jobserver.broker.broker import BULK
from jobserver.broker.job import REGISTRIES, STATUSES, envelope, payload_of, queue_of
from jobserver.broker.listing import Attempt, Listing, Place, Wanted
from jobserver.broker.overview import Overview, overview
from jobserver.broker.stock import ExceptionHandler
from jobserver.broker.workers import WorkerState, workers
from jobserver.config import Config
from jobserver.errors import (
    ConfigInvalid,
    DeclarationInvalid,
    FieldError,
    JobNotFound,
    KeyConflict,
    NoDatabase,
    NotMigrated,
    PayloadInvalid,
    WrongState,
)
from jobserver.ids import new_id
from jobserver.job_type import JobType
from jobserver.ledger import lines, runs
from jobserver.ledger.outbox import Outbox
from jobserver.ledger.runs import Run, Sought
from jobserver.listener import NAMES, EventName, JobEvent, Listeners
from jobserver.live import Lookout
from jobserver.payload import dumps, job_id, loads
from jobserver.policy import CENTURY, MOST, Backoff, Priority, Queue, Retention, priority_of
from jobserver.registry import Registry
from jobserver.schedules import Schedules
from jobserver.trace import trace as current_trace

FUNCTION = "jobserver.runner.run"  # the only function whose name travels

logger = logging.getLogger("jobserver.server")


class Server:
    """The verbs over one Redis and one registry."""

    app: Flask
    config: Config
    secrets: tuple[str, ...]
    registry: Registry
    broker: Broker
    outbox: Outbox
    listeners: Listeners
    lookout: Lookout
    schedules: Schedules

    def __init__(self, *, jobs: Iterable[str] = (), db: object = None) -> None:
        if isinstance(jobs, str):
            raise DeclarationInvalid(f"jobs={jobs!r} is not accepted: use a list of modules")
        self._modules = tuple(jobs)
        self.exception_handlers: tuple[ExceptionHandler, ...] = ()  # of `rq worker`
        self.db = db

    def configure(self, config: Config) -> None:
        """Take the configuration and find the job types; touches neither Redis nor SQL.

        Raises ConfigInvalid for a key prefix that this process does not have: RQ reads it once.
        """
        if config.key_prefix != RQ_KEY_PREFIX:
            raise ConfigInvalid(
                f"RQ_KEY_PREFIX={config.key_prefix!r}: this process has {RQ_KEY_PREFIX!r} already; "
                "set it before rq is imported, and run apps of different prefixes apart"
            )
        self.config = config
        self.secrets = config.secrets()
        self.registry = Registry(overrides=config.queue_overrides)
        self.registry.discover(self._modules)
        self.broker = Broker(
            connect(config.redis_url),
            events_max_mib=config.events_max_mib,
            backlog_max_mib=config.ledger_backlog_mib,
        )
        self.outbox = Outbox(self.broker)
        self.schedules = Schedules(self)
        self.listeners = Listeners(self.registry.listeners, context=self.app.app_context)
        self.lookout = Lookout(self.broker, most=config.max_waiters)

    def enqueue(
        self,
        job_type: str | JobType,
        payload: Mapping[str, object] | None = None,
        *,
        session: Session | scoped_session[Any] | None = None,
        delay: float | timedelta | None = None,
        at: datetime | None = None,
        priority: Priority | int = "normal",
        key: str | None = None,
        attempts: int | None = None,
        backoff: Backoff | None = None,
        timeout: int | None = None,
        owner: str | None = None,
        call: str | None = None,
    ) -> Job:
        """Create a job, or return the active one that has its key (`duplicate` is True then).

        With `session`, the job is made when that session's transaction commits, and only then. The
        job starts after `delay` seconds or `at` a time. `attempts`, `backoff` and `timeout`
        (seconds) override the type's policy. `call` names this call: repeated within ten minutes,
        it gets the first answer. Raises UnknownJobType, PayloadInvalid, PayloadTooLarge,
        KeyConflict, RedisUnavailable; nothing is written then.
        """
        return self.enqueue_many(
            job_type,
            [payload or {}],
            session=session,
            delay=delay,
            at=at,
            priority=priority,
            keys=None if key is None else [key],
            attempts=attempts,
            backoff=backoff,
            timeout=timeout,
            owner=owner,
            calls=None if call is None else [call],
        )[0]

    def enqueue_many(
        self,
        job_type: str | JobType,
        payloads: Sequence[Mapping[str, object]],
        *,
        session: Session | scoped_session[Any] | None = None,
        delay: float | timedelta | None = None,
        at: datetime | None = None,
        priority: Priority | int = "normal",
        keys: Sequence[str] | None = None,
        attempts: int | None = None,
        backoff: Backoff | None = None,
        timeout: int | None = None,
        owner: str | None = None,
        calls: Sequence[str] | None = None,
    ) -> list[Job]:
        """Create a job per payload, as `enqueue` does; all are checked before any is written."""
        kind = self.registry.job_type(job_type)
        for name, given in (("keys", keys), ("calls", calls)):
            if given is not None and len(given) != len(payloads):
                detail = f"Must be {len(payloads)}, one per payload."
                raise PayloadInvalid(errors=[{"pointer": f"#/{name}", "detail": detail}])
        settings = self.settings(
            kind,
            due=_due(delay, at, from_now=session is None),
            priority=priority,
            attempts=attempts,
            backoff=backoff,
            timeout=timeout,
            owner=owner,
        )
        requests = [
            self.request(
                kind,
                values,
                key=keys[number] if keys else None,
                call=calls[number] if calls else None,
                settings=settings,
            )
            for number, values in enumerate(payloads)
        ]
        if session is not None:
            self.outbox.store(session, requests)
            return [
                _job(request, payload) for request, payload in zip(requests, payloads, strict=True)
            ]
        answers = self.broker.enqueue(requests)
        for request, answer in zip(requests, answers, strict=True):
            if answer.word == "conflict":
                raise _conflict(request, answer)
        _log_waiting(requests, answers)
        return [
            _job(request, values, answer)
            for request, values, answer in zip(requests, payloads, answers, strict=True)
        ]

    def submit(self, requests: Sequence[EnqueueRequest]) -> list[Job | KeyConflict]:
        """Create the jobs of prepared requests; return for each its job, or why there is none.

        Raises RedisUnavailable, after which some of many may be made: repeat the requests.
        """
        answers = self.broker.enqueue(requests)
        _log_waiting(requests, answers)
        return [
            _conflict(request, answer)
            if answer.word == "conflict"
            else _job(request, payload_of(request.data)[1], answer)
            for request, answer in zip(requests, answers, strict=True)
        ]

    def prepared(
        self,
        job_type: str | JobType,
        payload: Mapping[str, object],
        *,
        delay: float | timedelta | None = None,
        at: datetime | None = None,
        priority: Priority | int = "normal",
        key: str | None = None,
        attempts: int | None = None,
        backoff: Backoff | None = None,
        timeout: int | None = None,
        owner: str | None = None,
        call: str | None = None,
    ) -> EnqueueRequest:
        """Return the request of one job, checked, for `submit`; raises what `enqueue` raises."""
        kind = self.registry.job_type(job_type)
        settings = self.settings(
            kind,
            due=_due(delay, at, from_now=True),
            priority=priority,
            attempts=attempts,
            backoff=backoff,
            timeout=timeout,
            owner=owner,
        )
        return self.request(kind, payload, key=key, call=call, settings=settings)

    def settings(
        self,
        kind: JobType,
        *,
        due: str = "",
        priority: Priority | int = "normal",
        attempts: int | None = None,
        backoff: Backoff | None = None,
        timeout: int | None = None,
        owner: str | None = None,
    ) -> dict[str, Any]:
        """Return what the requests of one enqueue share: options, else environment, else policy."""
        overrides = self.config.queue_overrides.get(kind.queue.name, {})
        return {
            "type": kind.name,
            "origin": kind.queue.origin(_priority(priority)),
            "timeout": _count("timeout", timeout, overrides.get("timeout", kind.policy.timeout)),
            "attempts": _count(
                "attempts", attempts, overrides.get("attempts", kind.policy.attempts)
            ),
            "due": due,
            "owner": owner or "",
            "backoff": dumps(asdict(backoff)).decode() if backoff else "",
            "when_active": kind.policy.when_active,
        }

    @staticmethod
    def request(
        kind: JobType,
        values: Mapping[str, object],
        *,
        key: str | None = None,
        call: str | None = None,
        scheduled_at: float | None = None,
        trace: str = "",
        settings: Mapping[str, Any],
    ) -> EnqueueRequest:
        """Return the request for one job; raises PayloadInvalid, PayloadTooLarge.

        `scheduled_at` is the Unix time that a tick's job is due for.
        """
        for name, given in (("key", key), ("call", call), ("owner", settings["owner"])):
            if given is not None and not isinstance(given, str):
                error: FieldError = {"pointer": f"#/{name}", "detail": "Must be a text."}
                raise PayloadInvalid(errors=[error])
        encoded, own_key, limit_key = kind.prepare(values)
        key = key or own_key
        call = call or new_id()
        # A call that is repeated must meet its own job again.
        identity = job_id(key or call)
        return EnqueueRequest(
            id=identity,
            call=call,
            run=new_id(),
            data=envelope(FUNCTION, kind.name, encoded, scheduled_at=scheduled_at),
            key=key if key and key != identity else "",
            limit_key=limit_key or "",
            trace=trace or current_trace(),
            **settings,
        )

    def fetch(self, job_id: str) -> Job:
        """Return a job as it stands; raises JobNotFound."""
        return self.broker.fetch(job_id)

    def find(self, job_id: str) -> Job:
        """Return a job as it stands, or, once Redis has let it go, as its last run left it.

        Raises JobNotFound, JobPurged, DatabaseUnavailable.
        """
        job = self.broker.fetch_many([job_id])[0]
        if job is not None:
            return job
        run = self.recall(job_id)
        if run is None:
            raise JobNotFound(f"No job with id {job_id!r} is known")
        return run.as_job

    def find_many(self, job_ids: Sequence[str]) -> dict[str, Job]:
        """Return by id those jobs that Redis or the ledger has; two queries, however many.

        Those that somebody removed are left out. Raises DatabaseUnavailable.
        """
        ids = list(dict.fromkeys(job_ids))
        kept = zip(ids, self.broker.fetch_many(ids), strict=True)
        found = {name: job for name, job in kept if job is not None}
        if not (gone := [name for name in ids if name not in found]):
            return found
        try:
            recalled = runs.latest_of(self.db, gone)
        except (NoDatabase, NotMigrated):
            return found
        return found | {n: run.as_job for n, run in recalled.items() if run.purged_at is None}

    def recall(self, job_id: str) -> Run | None:
        """Return the last run of a job that the ledger has, for a job that Redis has let go.

        None, too, where there is no ledger. Raises DatabaseUnavailable.
        """
        try:
            return runs.latest(self.db, job_id)
        except (NoDatabase, NotMigrated):
            return None

    def recall_run(self, run: str) -> Run | None:
        """Return a run that the ledger has; None, too, where there is no ledger."""
        try:
            return runs.get(self.db, run)
        except (NoDatabase, NotMigrated):
            return None

    def recalled(self, queue: str, *, is_dead: bool = False, limit: int = 50) -> list[Job]:
        """Return the last runs of a queue that the ledger has, the newest first, as jobs.

        With `is_dead` only failed ones that nobody has discarded and whose jobs have not run since.
        None of them where there is no ledger. Raises DatabaseUnavailable.
        """
        sought = Sought(queue=self.registry.queue(queue).name, is_dead=is_dead)
        try:
            found, _ = runs.find(self.db, sought, limit=limit)
        except (NoDatabase, NotMigrated):
            return []
        return [run.as_job for run in found if run.purged_at is None]

    def lines(self, job_id: str, run: str) -> list[tuple[int, dict[str, Any]]]:
        """Return the lines that a run of a job has logged, with their numbers: the last 200.

        None of them where neither Redis nor a ledger has any. Raises DatabaseUnavailable.
        """
        logged, kept = self.broker.lines(job_id, run)
        if logged:
            return list(enumerate(map(loads, kept), logged - len(kept) + 1))
        try:
            return lines.of_run(self.db, run)
        except (NoDatabase, NotMigrated):
            return []

    def redacted(self, type_name: str, values: Any) -> Any:
        """Return a job's payload as it may be shown: without what its marked fields hold.

        Of a type that this server does not know nothing is known to be secret.
        """
        known = self.registry.types.get(type_name)
        return known.redacted(values) if known else values

    def cancel(self, job_id: str) -> Job:
        """Cancel a job: a waiting one never runs, a running one is told.

        Raises WrongState for an ended one, JobNotFound.
        """
        job = self.fetch(job_id)
        if self.broker.cancel(job_id, retention=self._retention(job.queue)) == "canceled":
            self.tell(job_id, "canceled")
        return self.fetch(job_id)

    def retry(self, job_id: str, *, queue: str | None = None) -> Job:
        """Queue a failed or canceled job again, with its type's attempts on top of those it had.

        Raises JobNotFound, of `queue` if given, and WrongState for a job in another state.
        """
        job = self.fetch(job_id)
        if queue is not None:
            self._check_queue(job, queue)
        word = self.broker.retry([job_id], attempts=self.attempts_of(job.type))[0]
        if word == "missing":
            raise JobNotFound(f"No job with id {job_id!r} is known")
        if word != "retried":
            status = STATUSES.get(word, "waiting")
            raise WrongState(
                f"Job {job_id!r} is {status}; only failed or canceled ones are retried"
            )
        return self.fetch(job_id)

    def retry_all_failed(self, queue: str) -> int:
        """Queue all jobs again that have failed by now in a queue; return how many."""
        by_attempts: dict[int, list[str]] = {}
        for failed, name in self.broker.failed_types(self.registry.queue(queue)).items():
            by_attempts.setdefault(self.attempts_of(name), []).append(failed)
        return sum(
            self.broker.retry(ids[start : start + BULK], attempts=attempts).count("retried")
            for attempts, ids in by_attempts.items()
            for start in range(0, len(ids), BULK)
        )

    def promote(self, job_id: str, *, queue: str | None = None) -> Job:
        """Let a delayed job, or one between two attempts, wait in line now.

        Raises JobNotFound, of `queue` if given, and WrongState for a job in another state.
        """
        if queue is not None:
            self._check_queue(self.fetch(job_id), queue)
        word = self.broker.hasten(job_id)
        if word == "missing":
            raise JobNotFound(f"No job with id {job_id!r} is known")
        if word != "promoted":
            status = STATUSES.get(word, "waiting")
            raise WrongState(f"Job {job_id!r} is {status}; only delayed ones are promoted")
        return self.fetch(job_id)

    def search(
        self,
        wanted: Wanted,
        *,
        queue: str | None = None,
        after: Place | None = None,
        limit: int = 50,
    ) -> tuple[list[Job], Place | None]:
        """Return jobs of a queue or of all, and the place behind which to go on, None at the end.

        The jobs lack payload and result. A page may hold fewer than `limit`, even none.
        """
        queues = [self.registry.queue(queue)] if queue else list(self.registry.queues.values())
        return Listing(self.broker).search(queues, wanted, after=after, limit=limit)

    def attempts(self, job_id: str) -> list[Attempt]:
        """Return the ended attempts of a job, the oldest first; of many, the last ten."""
        return Listing(self.broker).attempts(self.fetch(job_id))

    def pause(self, queue: str, *, until: float = 0, reason: str = "") -> bool:
        """Let nothing of a queue start, until a Unix time or for ever; running jobs finish."""
        return self.broker.pause(self.registry.queue(queue), until=until, reason=reason)

    def resume(self, queue: str) -> bool:
        """Let a paused queue go on; returns whether it was paused."""
        return self.broker.resume(self.registry.queue(queue))

    def failed(self, queue: str, *, start: int = 0, end: int = 99) -> list[Job]:
        """Return a queue's failed jobs, newest first; `start` and `end` are inclusive ranks."""
        return self.broker.listed(self.registry.queue(queue), "failed", start=start, end=end)

    def clean(self, queue: str, *, older_than: float, states: Sequence[str]) -> int:
        """Purge the jobs of a queue that ended `older_than` seconds ago; return how many.

        `states` are of completed, failed, canceled.
        """
        names = {state: REGISTRIES[state] for state in ("completed", "failed", "canceled")}
        unknown = [state for state in states if state not in names]
        if unknown:
            raise PayloadInvalid(
                errors=[{"pointer": "#/states", "detail": f"Use {', '.join(names)}."}]
            )
        registries = [names[state] for state in states]
        return self.broker.clean(
            self.registry.queue(queue), older_than=older_than, registries=registries
        )

    def sweep(self, queue: str) -> int:
        """Purge what a queue's retention would, now; return how many."""
        return self.broker.sweep([self.registry.queue(queue)])

    def empty(self, queue: str) -> int:
        """Remove a queue's waiting and delayed jobs, never the running ones; return how many."""
        return self.broker.empty(self.registry.queue(queue))

    def statistics(self) -> dict[str, QueueState]:
        """Return how every queue stands, in one round trip."""
        return self.broker.statistics(list(self.registry.queues.values()))

    def workers(self) -> list[WorkerState]:
        """Return the workers that are registered, with what they run now, in one round trip."""
        return workers(self.broker)

    def overview(
        self, queue: str, *, states: Sequence[str] = ("failed",), start: int = 0, end: int = 99
    ) -> Overview:
        """Return how a queue stands, its jobs in these states, and the recurring entries.

        Of each of active, completed, failed, canceled those from rank `start` to `end` (included),
        the newest first. One round trip.
        """
        registries = [REGISTRIES[state] for state in states]
        return overview(
            self.broker, self.registry.queue(queue), registries=registries, start=start, end=end
        )

    def counts(self) -> dict[str, dict[str, int]]:
        """Return jobs per queue and state, in one round trip."""
        return self.broker.counts(list(self.registry.queues.values()))

    def close(self) -> None:
        """End in order: listeners are told what they wait for, waiting clients go, Redis is left.

        For a process of the app's own that goes on without jobs; ours do it as they end. A verb
        that is used afterwards connects anew, but nobody waits here any more.
        """
        self.listeners.close(within=1)
        self.lookout.close()
        self.schedules.entries.close()
        self.broker.connection.connection_pool.disconnect()

    def attempts_of(self, type_name: str) -> int:
        """Return how many attempts a retry adds to a job of this type."""
        known = self.registry.types.get(type_name)
        return int(self.settings(known)["attempts"]) if known else 1

    def tell_recovered(self, recoveries: Sequence[Recovery]) -> None:
        """Log runs that were taken back from lost workers, and tell the listeners of them."""
        for recovery in recoveries:
            fields = {"job": recovery.id, "run": recovery.run, "outcome": recovery.outcome}
            line = "Job %s stalled: worker lost, now %s"
            logger.warning(line, recovery.id, recovery.outcome, extra={"fields": fields})
            self.tell(recovery.id, "stalled")
            if recovery.outcome in NAMES:
                self.tell(recovery.id, recovery.outcome)

    def tell(self, job_id: str, name: EventName) -> None:
        """Tell the listeners what became of a job, as far as Redis still knows of it."""
        job = self.broker.fetch_many([job_id])[0] if self.listeners.are_any else None
        if job is None:
            return
        self.listeners.tell(
            JobEvent(
                name=name,
                job_id=job.id,
                run_id=job.run_id,
                type=job.type,
                queue=job.queue,
                attempt=job.attempt,
                attempts=job.attempts,
                seconds=(job.duration_ms or 0) / 1000,
                error_type=job.error_type or "",
                error_message=job.error_message or "",
            )
        )

    def _check_queue(self, job: Job, queue: str) -> None:
        if job.queue != self.registry.queue(queue).name:
            raise JobNotFound(f"No job with id {job.id!r} is known in queue {queue!r}")

    def lines_ttl(self, claim: Claim) -> int:
        """Return the seconds for which Redis keeps lines of a run: as long as the job, about."""
        kept = self._retention(queue_of(claim.origin)[0])
        return int(claim.timeout + max(kept.completed_age, kept.failed_age))

    def _retention(self, queue: str) -> Retention:
        known = self.registry.queues.get(queue)
        return known.retention if known else Queue(queue).retention


def _priority(value: Priority | int) -> Priority:
    try:
        return priority_of(value)
    except DeclarationInvalid as error:
        raise PayloadInvalid(errors=[{"pointer": "#/priority", "detail": str(error)}]) from None


def _count(name: str, given: int | None, default: float) -> int:
    if given is None:
        return int(default)
    if not isinstance(given, int) or isinstance(given, bool) or not 1 <= given <= MOST:
        detail = f"Must be a whole number from 1 to {MOST}."
        raise PayloadInvalid(errors=[{"pointer": f"#/{name}", "detail": detail}])
    return given


def _due(delay: float | timedelta | None, at: datetime | None, *, from_now: bool) -> str:
    if delay is not None and at is not None:
        raise PayloadInvalid(errors=[{"pointer": "#/at", "detail": "Not together with delay."}])
    if isinstance(delay, timedelta):
        delay = delay.total_seconds()
    if delay is not None:
        if not isinstance(delay, int | float) or not 0 <= delay <= CENTURY:
            raise PayloadInvalid(
                errors=[{"pointer": "#/delay", "detail": f"Must be 0 to {CENTURY:.0f} seconds."}]
            )
        # From the moment Redis sees it; through the outbox that may be much later than now.
        return f"+{int(delay * 1000)}" if from_now else str(int((time.time() + delay) * 1000))
    if at is not None:
        if not isinstance(at, datetime) or at.tzinfo is None:
            raise PayloadInvalid(
                errors=[{"pointer": "#/at", "detail": "Must be a time with its offset from UTC."}]
            )
        if at.timestamp() - time.time() > CENTURY:
            raise PayloadInvalid(
                errors=[{"pointer": "#/at", "detail": "Must be within a century."}]
            )
        return str(int(at.timestamp() * 1000))
    return ""


def _log_waiting(requests: Sequence[EnqueueRequest], answers: Sequence[Answer]) -> None:
    if not logger.isEnabledFor(logging.DEBUG):
        return
    for request, answer in zip(requests, answers, strict=True):
        line, queue = "Job %s waiting in queue %s: %s", queue_of(request.origin)[0]
        fields = {"job": request.id, "run": answer.run, "type": request.type, "queue": queue}
        logger.debug(line, request.id, request.origin, answer.word, extra={"fields": fields})


def _conflict(request: EnqueueRequest, answer: Answer) -> KeyConflict:
    return KeyConflict(f"Key {request.key or request.id!r} is held by a job of type {answer.run!r}")


def _job(
    request: EnqueueRequest, payload: Mapping[str, object], answer: Answer | None = None
) -> Job:
    if answer and answer.held:
        return replace(answer.held, duplicate=True)
    queue, priority = queue_of(request.origin)
    raw_status = answer.raw_status if answer else "scheduled" if request.due else "queued"
    return Job(
        id=request.id,
        run_id=answer.run if answer else request.run,
        type=request.type,
        queue=queue,
        priority=priority,
        status=STATUSES.get(raw_status, "waiting"),
        raw_status=raw_status,
        attempts=request.attempts,
        key=request.key or None,
        owner=request.owner or None,
        trace=request.trace or (answer.run if answer else request.run),
        payload=dict(payload),
        duplicate=answer is not None and answer.word != "new",
    )
