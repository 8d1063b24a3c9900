"""The broker: each change of a state is one call of one script, each reading one round trip."""

from __future__ import annotations

import copy
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, cast

from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import MasterDownError, OutOfMemoryError, ReadOnlyError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from jobserver.broker import job as jobs
from jobserver.broker import keys, queue_state
from jobserver.broker.connection import sibling
from jobserver.broker.exchange import Claim, Ending, exchange_call, read_exchange
from jobserver.broker.job import Job
from jobserver.broker.queue_state import QueueState
from jobserver.broker.request import Answer, EnqueueRequest
from jobserver.broker.scripts import Argument, Call, Scripts
from jobserver.broker.stock import StockJob
from jobserver.broker.tail import Tail
from jobserver.errors import JobNotFound, LedgerBehind, RedisUnavailable, WrongState
from jobserver.policy import Queue, Retention
from jobserver.transcript import MOST_BYTES, MOST_LINES

BULK = 250  # jobs per script call: some 5 ms of the server's time
MIB = 1024 * 1024
EVENT_BYTES = 256  # a typical entry of the event stream
TAIL_TIMEOUT = 2.0  # seconds for one answer while following it


@dataclass(frozen=True, kw_only=True, slots=True)
class Recovery:
    """A run taken back from a lost worker; `outcome` is RQ's new status."""

    id: str
    run: str
    outcome: str


class Recorded(NamedTuple):
    """What Redis knew of the ledger before: ids of events, or ''.

    `position` is what it had recorded, `trimmed` up to where events are gone, `last` the newest.
    """

    position: str
    trimmed: str
    last: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Backlog:
    """The events that are not recorded yet: the oldest is `seconds` old, `size` is in bytes.

    `share` is of their bound; while `is_full`, no job can be enqueued.
    """

    size: int
    share: float
    events: int
    seconds: float
    is_full: bool


class Broker:
    """The verbs over one Redis. Raises RedisUnavailable when it cannot be reached."""

    def __init__(
        self, connection: Redis, *, events_max_mib: int = 64, backlog_max_mib: int = 256
    ) -> None:
        """Bound the event stream: without a recorder by the first; with one, what it has not

        recorded yet by the second.
        """
        self.connection = connection
        self._backlog_max = backlog_max_mib * MIB
        self.scripts = Scripts(
            connection,
            max_events=max(1000, events_max_mib * MIB // EVENT_BYTES),
            # Twice what the bound means: this is for when nobody measures.
            max_backlog=max(1000, 2 * backlog_max_mib * MIB // EVENT_BYTES),
        )

    def beside(self, connection: Redis) -> Broker:
        """Return a broker with the same bounds on another connection."""
        other = copy.copy(self)
        other.connection = connection
        other.scripts = self.scripts.on(connection)
        return other

    def enqueue(self, requests: Sequence[EnqueueRequest], *, call_ttl: float = 0) -> list[Answer]:
        """Create the jobs whose ids are free; one round trip per 250, each of them atomic.

        Safe to repeat: a call gets its first answer again, for ten minutes at least, for `call_ttl`
        seconds if that is longer.
        """
        answers: list[Answer] = []
        for start in range(0, len(requests), BULK):
            part = requests[start : start + BULK]
            arguments: list[Argument] = [int(call_ttl), len(part)]
            for request in part:
                arguments.extend(request.arguments())
            rows = self.run_script("enqueue", *arguments)
            answers.extend(map(_answer, part, rows))
        return answers

    def forget_calls(self, calls: Sequence[str]) -> None:
        """Let calls that will not be repeated lapse in ten minutes."""
        if not calls:
            return
        with available():
            pipe = self.connection.pipeline(transaction=False)
            for call_id in calls:
                pipe.expire(keys.call(call_id), 600)
            pipe.execute()

    def fetch(self, job_id: str) -> Job:
        """Return the job as it stands; raises JobNotFound."""
        found = self.fetch_many([job_id])[0]
        if found is None:
            raise JobNotFound(f"No job with id {job_id!r} is known")
        return found

    def version(self, job_id: str) -> tuple[str, str | None]:
        """Return a job's version and owner, by one HMGET; raises JobNotFound."""
        with available():
            values = self.connection.hmget(keys.job(job_id), *jobs.VERSIONED, "owner")
        *versioned, owner = cast("list[bytes | None]", values)
        if not any(versioned):
            raise JobNotFound(f"No job with id {job_id!r} is known")
        return jobs.version_of(versioned), owner.decode() if owner else None

    def fetch_many(self, ids: Sequence[str]) -> list[Job | None]:
        """Return the jobs as they stand, None for each that is not there; one round trip."""
        commands: list[Sequence[Argument]] = []
        for job_id in ids:
            commands.append(("HGETALL", keys.job(job_id)))
            commands.append(("XREVRANGE", keys.results(job_id), "+", "-", "COUNT", 1))
        with available():
            raw = self.scripts.exchange(commands)
        found = [(_pairs(raw[n]), raw[n + 1]) for n in range(0, len(raw), 2)]
        return [
            jobs.from_hash(job_id, fields, _pairs(results[0][1]) if results else None)
            if fields
            else None
            for job_id, (fields, results) in zip(ids, found, strict=True)
        ]

    def statistics(self, queues: Sequence[Queue]) -> dict[str, QueueState]:
        """Return how the queues stand; one round trip whatever is in Redis."""
        rows = self.run_script("statistics", *(queue.name for queue in queues))
        return queue_state.read(queues, rows)

    def counts(self, queues: Sequence[Queue]) -> dict[str, dict[str, int]]:
        """Return jobs per queue and state, in one round trip."""
        return {name: dict(state.counts) for name, state in self.statistics(queues).items()}

    def listed(self, queue: Queue, registry: str, *, start: int = 0, end: int = 99) -> list[Job]:
        """Return a queue's finished, failed, canceled or scheduled jobs, newest first.

        `start` and `end` are inclusive ranks, as Bull's are. One round trip.
        """
        name, arguments = listed_call(queue, registry, start=start, end=end)
        return read_listed(self.run_script(name, *arguments))

    def failed_types(self, queue: Queue) -> dict[str, str]:
        """Return the ids of a queue's failed jobs with their types."""
        with available():
            pipe = self.connection.pipeline(transaction=False)
            for origin in queue.origins:
                pipe.zrange(keys.registry("failed", origin), 0, -1)
            ids = [job_id.decode() for entries in pipe.execute() for job_id in entries]
            for job_id in ids:
                pipe.hget(keys.job(job_id), "type")
            types = pipe.execute()
        return {job_id: name.decode() for job_id, name in zip(ids, types, strict=True) if name}

    def waiting(self, queue: Queue, *, limit: int = 1000) -> list[Job]:
        """Return a queue's waiting jobs in the order they will start, then its delayed ones."""
        with available():
            pipe = self.connection.pipeline(transaction=False)
            for origin in queue.origins:
                pipe.lrange(keys.waiting(origin), 0, limit - 1)
            for origin in queue.origins:
                pipe.zrange(keys.registry("scheduled", origin), 0, limit - 1)
            ids = [job_id.decode() for entries in pipe.execute() for job_id in entries]
        return [job for job in self.fetch_many(ids[:limit]) if job is not None]

    def tail(self) -> Tail:
        """Return the end of the event stream, to be followed on a connection of its own."""
        return Tail(sibling(self.connection, timeout=TAIL_TIMEOUT))

    def host_of(self, worker: str) -> str | None:
        """Return the host of a worker that is registered, None of others."""
        with available():
            host = cast("bytes | None", self.connection.hget(keys.worker(worker), "hostname"))
        return host.decode(errors="replace") if host else None

    def recorded(self, position: str, *, events: int) -> Recorded:
        """Say up to which event of the stream the ledger has them, and how many it ever had.

        They are trimmed, but for those of the last seconds.
        """
        known, _ = self.run_scripts(
            [("recorded", (position, events)), ("backlog", (self._backlog_max,))]
        )
        return Recorded(*(text.decode() for text in known))

    def backlog(self) -> Backlog | None:
        """Measure what is not recorded yet, and let enqueue know of it; None without a recorder."""
        found = self.run_script("backlog", self._backlog_max)
        if not found:
            return None
        size, events, since, is_full = found
        seconds = max(0.0, time.time() - int(since) / 1000) if since else 0.0
        share = size / self._backlog_max
        return Backlog(
            size=size, share=share, events=events, seconds=seconds, is_full=bool(is_full)
        )

    def ping(self) -> float:
        """Return the seconds that a round trip takes."""
        start = time.perf_counter()
        with available():
            self.connection.ping()
        return time.perf_counter() - start

    def exchange(
        self,
        worker: str,
        *,
        endings: Sequence[tuple[Ending, Retention]] = (),
        claim: Sequence[Argument] = (),
    ) -> tuple[list[str], list[Claim]]:
        """Hand in ended runs and take new ones, in one round trip.

        `claim` comes from `wanted`. Returns what became of each ending ('ok', 'poison',
        'canceled', 'recorded', 'lost') and the runs taken. After an error the same call may be sent
        again.
        """
        name, arguments = exchange_call(worker, endings=endings, claim=claim)
        words, claims, error = read_exchange(self.run_script(name, *arguments))
        if error:
            with available():
                raise error
        return words, claims

    def renew(self, entries: Sequence[str], *, lease: float) -> tuple[set[str], set[str]]:
        """Extend leases by `lease` seconds from now; return those lost and those to be canceled."""
        lost, canceled = self.run_script("renew", int(lease * 1000), *entries)
        return {entry.decode() for entry in lost}, {entry.decode() for entry in canceled}

    def show(self, worker: str, entries: Sequence[str]) -> None:
        """Let RQ's readers see what a worker runs."""
        self.run_script("show", worker, *entries)

    def progress(self, job_id: str, exec_id: str, *, percent: float, message: str) -> str:
        """Note a run's progress; return 'ok', 'canceled' or 'lost'."""
        word: bytes = self.run_script(
            "progress", job_id, exec_id, f"{percent:g}", jobs.utf8(message)
        )
        return word.decode()

    def log(self, job_id: str, run: str, *, dropped: int, lines: Sequence[bytes], ttl: int) -> bool:
        """Keep lines that a run logged, for `ttl` seconds; return whether the run is still there.

        `dropped` is how many there were before these that nobody has.
        """
        caps: tuple[Argument, ...] = (MOST_LINES, MOST_BYTES, ttl)
        return bool(self.run_script("log", job_id, run, dropped, *caps, *lines))

    def lines(self, job_id: str, run: str) -> tuple[int, list[bytes]]:
        """Return how many lines a run has logged, as far as the job says, and those kept."""
        with available():
            pipe = self.connection.pipeline(transaction=True)
            pipe.hmget(keys.job(job_id), "run", "logged")
            pipe.lrange(keys.log(run), 0, -1)
            (holder, logged), kept = pipe.execute()
        return int(logged or 0) if holder == run.encode() else 0, kept

    def standing(self, job_id: str, exec_id: str) -> str:
        """Return what `progress` would answer, and note nothing."""
        with available():
            holder, status, cancel = cast(
                "list[bytes | None]",
                self.connection.hmget(keys.job(job_id), "exec", "status", "cancel"),
            )
        if holder != exec_id.encode() or status != b"started":
            return "lost"
        return "canceled" if cancel else "ok"

    def promote(self, queues: Sequence[Queue], *, limit: int = 500) -> tuple[int, float | None]:
        """Move due jobs to their lists; return how many, and the Unix time of the next due one."""
        origins = [origin for queue in queues for origin in queue.origins]
        moved, upcoming = self.run_script("promote", limit, *origins)
        return moved, int(upcoming) / 1000 if upcoming else None

    def recover(
        self, queues: Sequence[Queue], *, interval: float, lease: float, limit: int = 500
    ) -> list[Recovery]:
        """Take back the runs of lost workers."""
        arguments: list[Argument] = [int(interval * 1000), int(lease * 1000), limit, _WORKER_LOST]
        for queue in queues:
            kept = queue.retention
            arguments.extend((queue.name, kept.failed_count, int(kept.failed_age)))
        return [
            Recovery(id=job_id.decode(), run=run.decode(), outcome=outcome.decode())
            for job_id, run, outcome in self.run_script("recover", *arguments)
        ]

    def reconcile(self, queues: Sequence[Queue], *, depth: int = 50) -> int:
        """Tell the events what stock RQ tools did to ended jobs; return how many ends that were."""
        told: int = self.run_script(
            "reconcile", depth, *(origin for queue in queues for origin in queue.origins)
        )
        return told

    def aftermath(self, *, hold: float) -> tuple[str, float] | None:
        """Return an end with which RQ's code has more to do, as `<word>:<id>`, and its mark.

        Unless it is reported as done by `done`, it is handed out again in `hold` seconds.
        """
        return _entry(self.run_script("aftermath", 1, int(hold * 1000)))

    def keep(self, entry: str, mark: float, *, hold: float) -> float | None:
        """Let an end come again in `hold` seconds from now; return its new mark.

        None: it was handed out to another worker, or came anew.
        """
        more = (entry, f"{mark:.0f}", int(hold * 1000))
        kept = _entry(self.run_script("aftermath", 0, 0, *more))
        return kept[1] if kept else None

    def done(self, entry: str, mark: float) -> None:
        """Say that nothing more is to be done with an end."""
        self.run_script("aftermath", 0, 0, entry, f"{mark:.0f}", "")

    def forfeit(self, job_id: str, outcome: str, *, why: str, retention: Retention) -> bool:
        """Let a deferred job end as failed or canceled; return whether it still was deferred."""
        kept = (retention.failed_count, int(retention.failed_age))
        return bool(self.run_script("forfeit", job_id, outcome, jobs.utf8(why), *kept))

    def stock_job(self, job_id: str) -> StockJob:
        """Return what stock RQ keeps of a job that it made; raises NoSuchJobError."""
        with available():
            return StockJob(self.connection, job_id)

    def ring(self, queues: Iterable[str]) -> None:
        """Tell the workers that RQ's own code has pushed to these queues; wake one of each."""
        with available(), self.connection.pipeline(transaction=False) as pipe:
            for name in queues:
                pipe.sadd(keys.READY, name)
                pipe.lpush(keys.wake(name), 1)
                pipe.ltrim(keys.wake(name), 0, 7)
            pipe.execute()

    def cancel(self, job_id: str, *, retention: Retention) -> str:
        """Cancel a job; return 'canceled' or, for a running one, 'asked'.

        Raises JobNotFound, and WrongState for an ended job.
        """
        word: bytes = self.run_script(
            "cancel", job_id, retention.failed_count, int(retention.failed_age)
        )
        if word == b"missing":
            raise JobNotFound(f"No job with id {job_id!r} is known")
        if word == b"ended":
            raise WrongState(f"Job {job_id!r} has ended; only unfinished jobs can be canceled")
        return word.decode()

    def retry(self, ids: Sequence[str], *, attempts: int) -> list[str]:
        """Queue failed or canceled jobs again with `attempts` more runs; return a word per job:

        'retried', 'missing', or the RQ status that forbids it.
        """
        return [word.decode() for word in self.run_script("retry", attempts, *ids)]

    def hasten(self, job_id: str) -> str:
        """Put a delayed job into line now; return 'promoted', 'missing', or its RQ status."""
        word: bytes = self.run_script("hasten", job_id)
        return word.decode()

    def pause(self, queue: Queue, *, until: float = 0, reason: str = "") -> bool:
        """Let nothing of a queue start, until a Unix time or for ever; return whether it is new."""
        mark = jobs.utf8(f"{int(until * 1000)} {reason}")
        return bool(self.run_script("pause", queue.name, mark))

    def resume(self, queue: Queue) -> bool:
        """Let a paused queue start jobs again; return whether it was paused."""
        return bool(self.run_script("pause", queue.name, ""))

    def clean(
        self,
        queue: Queue,
        *,
        older_than: float,
        registries: Sequence[str],
        reason: Literal["clean", "retention"] = "clean",
    ) -> int:
        """Purge jobs of a queue that ended `older_than` seconds ago; return how many.

        What goes by retention stays in the ledger as it ended.
        """
        least = int(older_than * 1000)
        return self._in_steps("clean", queue.name, least, BULK, reason, *registries)

    def empty(self, queue: Queue) -> int:
        """Remove a queue's waiting and delayed jobs; return how many."""
        return self._in_steps("empty", queue.name, BULK)

    def sweep(self, queues: Sequence[Queue]) -> int:
        """Purge what is older than its queue's retention allows; return how many."""
        return sum(
            self.clean(queue, older_than=age, registries=registries, reason="retention")
            for queue in queues
            for age, registries in (
                (queue.retention.completed_age, ("finished",)),
                (queue.retention.failed_age, ("failed", "canceled")),
            )
        )

    def _in_steps(self, name: str, *arguments: Argument) -> int:
        total = 0
        while True:
            removed: int = self.run_script(name, *arguments)
            total += removed
            if removed < BULK:
                return total

    def run_script(self, name: str, *arguments: Argument) -> Any:
        """Run a script that may be repeated: once more when a pooled connection proves dead."""
        return self.run_scripts([(name, arguments)])[0]

    def run_scripts(self, calls: Sequence[Call]) -> list[Any]:
        """Run scripts that may be repeated, in one round trip."""
        with available():
            try:
                return self.scripts.run_all(calls)
            except RedisTimeoutError:
                raise
            except RedisConnectionError:
                return self.scripts.run_all(calls)


def listed_call(queue: Queue, registry: str, *, start: int, end: int) -> Call:
    """Return the call that lists jobs of a registry; `read_listed` reads its answer."""
    return "listed", [registry, start, end, *queue.origins]


def read_listed(rows: Sequence[tuple[bytes, list[bytes], list[bytes]]]) -> list[Job]:
    """Return the jobs that the script `listed` found; those without a hash are left out."""
    return [
        jobs.from_hash(job_id.decode(), _pairs(fields), _pairs(result))
        for job_id, fields, result in rows
        if fields
    ]


def _pairs(flat: Any) -> dict[bytes, bytes]:
    if isinstance(flat, dict):  # so in RESP3
        return flat
    return dict(zip(flat[::2], flat[1::2], strict=True))


@contextmanager
def available() -> Iterator[None]:
    """Turn redis-py's errors of an unreachable, loading or full server into RedisUnavailable."""
    try:
        yield
    except (RedisConnectionError, RedisTimeoutError, OSError) as error:
        raise RedisUnavailable(f"Redis cannot be reached: {error}") from error
    except ResponseError as error:
        if str(error).startswith("FULL "):
            raise LedgerBehind from error
        if isinstance(error, _UNWILLING) or _UNWILLING_WORD.search(str(error)):
            raise RedisUnavailable(f"Redis takes no writes now: {error}") from error
        raise


# redis-py takes the word of a known error out of its text; Redis 6.2 writes that of an error in a
# script into the middle of it.
_UNWILLING = (OutOfMemoryError, ReadOnlyError, MasterDownError)
_UNWILLING_WORD = re.compile(r"^(BUSY|MISCONF) |-(OOM|READONLY|MASTERDOWN|MISCONF) ")

_WORKER_LOST = jobs.packed_traceback("worker lost")


def _entry(found: Sequence[bytes]) -> tuple[str, float] | None:
    return (found[0].decode(), float(found[1])) if found else None


def _answer(request: EnqueueRequest, row: Sequence[Any]) -> Answer:
    word, run, status, *fields = row
    held = None
    if fields:
        names = iter(fields[0])
        held = jobs.from_hash(request.id, dict(zip(names, names, strict=True)))
    return Answer(word=word.decode(), run=run.decode(), raw_status=status.decode(), held=held)
