"""What a scrape of the metrics tells, read in one round trip, and the histograms published for it.

Nothing here looks at jobs one by one: a scrape costs the same however many there are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

import orjson

from jobserver.broker import queue_state
from jobserver.broker.broker import Broker
from jobserver.broker.job import queue_of
from jobserver.broker.queue_state import QueueState
from jobserver.histogram import Histogram
from jobserver.policy import Queue

SILENCE = 30.0  # seconds after which a worker of ours, which beats each second, counts as gone
TOTALS = ("enqueued", "completed", "failed", "canceled", "retried", "deduplicated")

_STATES = ("active", "paused", "parked", "ended")

Histograms = Mapping[tuple[str, str], Histogram]


@dataclass(frozen=True, kw_only=True, slots=True)
class QueueMetrics:
    """A queue: how many of TOTALS there ever were, how many workers serve it.

    `waited` is the age of the job that is next, `overdue` how late the delayed job is that should
    have joined the line first: seconds, 0 when there is none.
    """

    state: QueueState
    totals: Mapping[str, int]
    workers: int
    waited: float
    overdue: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Metrics:
    """What Redis knows of the installation; times are seconds, memory is in bytes.

    `slots` are by executor. `lease_left` is the time until the first lease runs out (it did when
    that is negative), `silence` since when no scheduler beat: None where there is none. Of the
    `entries`, the recurring ones by state, `due` should have ticked, the first `late` seconds ago.
    Of the `events` in the stream the ledger lacks `unrecorded`, the first for `recorder_lag`, some
    `backlog` bytes; `refusing`: that many that no job can be enqueued.
    """

    queues: Sequence[QueueMetrics]
    workers: int
    slots: Mapping[str, int]
    leases: int
    expired: int
    lease_left: float | None
    schedulers: int
    silence: float | None
    entries: Mapping[str, int]
    due: int
    late: float
    events: int
    unrecorded: int
    recorder_lag: float
    backlog: int
    refusing: bool
    histograms: Histograms
    suspended: bool
    memory_used: int | None
    memory_max: int | None


class _Worker(NamedTuple):
    queues: frozenset[str]
    process_slots: int
    thread_slots: int


def read(broker: Broker, queues: Sequence[Queue]) -> Metrics:
    """Return the metrics as of now, by the server's clock. Raises RedisUnavailable."""
    names = [queue.name for queue in queues]
    states, answer = broker.run_scripts([("statistics", names), ("metrics", names)])
    moment, delayed, flat, rows, leases, schedulers, entries, ticks, *rest = answer
    events, counts, suspended, info = rest
    now = int(moment) / 1000
    totals = {field.decode(): int(n) for field, n in zip(flat[::2], flat[1::2], strict=True)}
    workers = [worker for row in rows if (worker := _living(row, now=now)) is not None]
    memory = dict(line.partition(":")[::2] for line in info.decode().splitlines())
    standing = queue_state.read(queues, states)
    return Metrics(
        queues=[
            QueueMetrics(
                state=(state := standing[queue.name]),
                totals={what: totals.get(f"{queue.name} {what}", 0) for what in TOTALS},
                workers=sum(queue.name in worker.queues for worker in workers),
                waited=max(0.0, now - state.oldest_at.timestamp()) if state.oldest_at else 0.0,
                overdue=max(0.0, now - float(due)) if due else 0.0,
            )
            for queue, due in zip(queues, delayed, strict=True)
        ],
        workers=len(workers),
        slots={
            "process": sum(worker.process_slots for worker in workers),
            "thread": sum(worker.thread_slots for worker in workers),
        },
        leases=leases[0],
        expired=leases[1],
        lease_left=float(leases[2]) / 1000 - now if leases[2] else None,
        schedulers=schedulers[0],
        silence=max(0.0, now - float(schedulers[1])) if schedulers[1] else None,
        entries=dict(zip(_STATES, entries, strict=True)),
        due=ticks[0],
        late=max(0.0, now - float(ticks[1]) / 1000) if ticks[1] else 0.0,
        events=events[0],
        unrecorded=events[1],
        recorder_lag=max(0.0, now - int(events[2]) / 1000) if events[2] else 0.0,
        backlog=events[3],
        refusing=bool(events[4]),
        histograms=_histograms(counts),
        suspended=bool(suspended),
        memory_used=_whole(memory.get("used_memory")),
        # Without a limit of its own the server can take what the machine has.
        memory_max=_whole(memory.get("maxmemory")) or _whole(memory.get("total_system_memory")),
    )


def publish(broker: Broker, *, position: str, histograms: Histograms) -> bool:
    """Let scrapes find the histograms of all time; return False when newer ones are there.

    `position` is the event up to which they count. Counters that went back would look like a
    restart to Prometheus, and their whole value like a burst.
    """
    rows = [[*of, one.counts, one.seconds] for of, one in histograms.items()]
    return bool(broker.run_script("histograms", position, orjson.dumps(rows)))


def _histograms(text: bytes) -> Histograms:
    rows: list[Any] = orjson.loads(text) if text else []
    return {
        (queue, what): Histogram(counts=counts, seconds=seconds)
        for queue, what, counts, seconds in rows
    }


def _living(row: Sequence[bytes], *, now: float) -> _Worker | None:
    queues, process_slots, thread_slots, beat = (part.decode(errors="replace") for part in row)
    is_ours = bool(process_slots)
    # RQ's own workers beat once in minutes; Redis forgets them when they don't.
    if is_ours and now - datetime.fromisoformat(beat).timestamp() > SILENCE:
        return None
    return _Worker(
        queues=frozenset(queue_of(name)[0] for name in queues.split(",")),
        process_slots=_whole(process_slots) or 0,
        thread_slots=_whole(thread_slots) or 0,
    )


def _whole(text: str | None) -> int | None:
    return int(text) if text and text.isdecimal() else None
