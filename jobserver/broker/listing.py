"""Jobs as lists: a page at a time, found again by what sorts them, whatever happened meanwhile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from jobserver.broker import job as jobs
from jobserver.broker import keys
from jobserver.broker.broker import Broker, available
from jobserver.broker.job import REGISTRIES, Job, Status
from jobserver.broker.scripts import Argument
from jobserver.policy import Queue

STATES: tuple[Status, ...] = ("active", "waiting", "delayed", "failed", "canceled", "completed")

_PAGE = 200  # jobs looked at in one step
_MOST_LOOKED_AT = 2000  # jobs per search: what is asked for may be rare

# Everything of a job but what may be large: its payload and its result.
_FIELDS = (
    *("status", "origin", "type", "run", "description", "key", "owner", "worker_name"),
    *("attempt", "attempts", "progress", "message", "due", "error_type", "error_message"),
    *("created_at", "enqueued_at", "started_at", "ended_at"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where a job stands in a list: in which state, what sorts it there, and its id."""

    state: Status
    sort: str
    id: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """Which jobs are asked for; None wants any. `key_prefix` is of the key, else of the id."""

    states: Sequence[Status] = STATES
    type: str | None = None
    key_prefix: str | None = None
    created_from: datetime | None = None
    created_before: datetime | None = None
    owner: str | None = None

    def matches(self, job: Job) -> bool:
        """Tell whether a job is asked for, its state aside."""
        created = job.created_at
        return (
            self.type in (None, job.type)
            and (self.key_prefix is None or (job.key or job.id).startswith(self.key_prefix))
            and (
                self.created_from is None or (created is not None and created >= self.created_from)
            )
            and (
                self.created_before is None
                or (created is not None and created < self.created_before)
            )
            and self.owner in (None, job.owner)
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Attempt:
    """A run of a job by one worker that ended; times are Unix seconds, `error` is a traceback."""

    number: int
    completed: bool
    worker: str
    started: float | None
    ended: float
    error: str | None


class Listing:
    """Reads lists of jobs. Raises RedisUnavailable when Redis cannot be reached."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    def search(
        self, queues: Sequence[Queue], wanted: Wanted, *, after: Place | None, limit: int
    ) -> tuple[list[Job], Place | None]:
        """Return up to `limit` jobs of the queues, and the place behind which others may be.

        State after state, in the order of `wanted.states`. Jobs lack payload and result. It stops
        looking after 2,000 jobs, whatever it found.
        """
        found: list[tuple[Place, Job]] = []
        looked_at, size = 0, limit + 1
        states = list(wanted.states)
        if after is not None:
            states = states[states.index(after.state) :]
        for state in states:
            place = after if after and after.state == state else None
            while True:
                places = self.page(queues, state, after=place, count=size)
                for place, job in zip(places, self.jobs(places), strict=True):
                    if job and _is_in(job, state) and wanted.matches(job):
                        found.append((place, job))
                    if len(found) > limit:
                        return [job for _, job in found[:limit]], found[limit - 1][0]
                looked_at += len(places)
                if len(places) < size:
                    break
                size = _PAGE
                if looked_at >= _MOST_LOOKED_AT:
                    return [job for _, job in found], place
        return [job for _, job in found], None

    def page(
        self, queues: Sequence[Queue], state: Status, *, after: Place | None, count: int
    ) -> list[Place]:
        """Return the next places of a state's list; one round trip.

        Waiting jobs come in the order in which they will start, queue after queue; delayed ones by
        when they are due; others with the newest first, running ones in no order.
        """
        if state == "waiting":
            return self._line(queues, after=after, count=count)
        return self._registries(queues, state, after=after, count=count)

    def jobs(self, places: Sequence[Place]) -> list[Job | None]:
        """Return the jobs without payload and result, None where one is gone; one round trip."""
        with available():
            pipe = self._broker.connection.pipeline(transaction=False)
            for place in places:
                pipe.hmget(keys.job(_job_id(place)), _FIELDS)
            rows = pipe.execute()
        return [
            jobs.from_hash(_job_id(place), _hash(values)) if any(values) else None
            for place, values in zip(places, rows, strict=True)
        ]

    def attempts(self, job: Job) -> list[Attempt]:
        """Return the job's ended attempts, the oldest first; of many, the last ten."""
        with available():
            entries: Any = self._broker.connection.xrange(keys.results(job.id))
        ended = job.attempt - (job.status == "active")
        first = max(1, ended - len(entries) + 1)
        return [
            _attempt(first + position, entry_id.decode(), fields)
            for position, (entry_id, fields) in enumerate(entries)
        ]

    def _line(self, queues: Sequence[Queue], *, after: Place | None, count: int) -> list[Place]:
        number, _, came = after.sort.partition(" ") if after else ("", "", "")
        origins = [origin for queue in queues for origin in queue.origins]
        arguments: list[Argument] = [count, number, came, after.id if after else "", *origins]
        return [
            Place(state="waiting", sort=f"{row[0]} {row[1].decode()}", id=row[2].decode())
            for row in self._broker.run_script("line", *arguments)
        ]

    def _registries(
        self, queues: Sequence[Queue], state: Status, *, after: Place | None, count: int
    ) -> list[Place]:
        order = "asc" if state == "delayed" else "desc"
        arguments: list[Argument] = [count, order]
        arguments += (after.sort, after.id) if after else ("", "")
        for queue in queues:
            for origin in queue.origins:
                arguments += (f"{REGISTRIES[state]}:{origin}", _lifetime(queue, state))
        rows = self._broker.run_script("page", *arguments)
        return [Place(state=state, sort=row[0].decode(), id=row[1].decode()) for row in rows]


def _is_in(job: Job, state: Status) -> bool:
    # It may have moved on since the list was read. RQ keeps stopped jobs with the failed ones.
    return job.status == state or (state == "failed" and job.raw_status == "stopped")


def _lifetime(queue: Queue, state: Status) -> int:
    # Registries of ended jobs are sorted by expiry; less that, by when they ended.
    ages = {"completed": queue.retention.completed_age, "failed": queue.retention.failed_age}
    return int(ages.get(state, 0))


def _job_id(place: Place) -> str:
    return place.id.partition(":")[0]  # running jobs are listed as <id>:<exec>


def _hash(values: Sequence[bytes | None]) -> dict[bytes, bytes]:
    return {
        name.encode(): value
        for name, value in zip(_FIELDS, values, strict=True)
        if value is not None
    }


def _attempt(number: int, entry_id: str, fields: dict[bytes, bytes]) -> Attempt:
    def seconds(name: bytes) -> float | None:
        return float(fields[name]) if fields.get(name) else None

    # An entry's id begins with the time at which it was made, in ms.
    ended = seconds(b"execution_ended_at") or int(entry_id.partition("-")[0]) / 1000
    return Attempt(
        number=number,
        completed=fields.get(b"type") == b"1",
        worker=fields.get(b"worker_name", b"").decode(errors="replace"),
        started=seconds(b"execution_started_at"),
        ended=ended,
        error=jobs.traceback_text(fields),
    )
