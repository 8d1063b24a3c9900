"""What should not be in Redis, looked for in samples, and taken care of where that is safe."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jobserver.broker import keys
from jobserver.broker.broker import BULK, Broker, available
from jobserver.broker.job import call_of
from jobserver.broker.scripts import Argument
from jobserver.policy import Queue

SAMPLE = 20  # entries of each list that are looked at
_STEPS = 20  # of SCAN, with
_STEP = 5000  # keys each, when other prefixes are looked for


@dataclass(frozen=True, kw_only=True, slots=True)
class Disorder:
    """What was found. `failed` in the last hour so many jobs, by queue.

    `orphans` are runs without a lease, `overdue_leases` a few of the `stuck` ones; both are
    `<id>:<exec>`. `types` wait, as (queue, type); `unreadable` are ids of jobs whose data
    no worker can read; `strangers` are RQ queues with waiting jobs that are not declared.
    """

    stock_entries: int
    stuck: int
    overdue_leases: Sequence[str]
    orphans: Sequence[str]
    failed: Mapping[str, int]
    types: Sequence[tuple[str, str]]
    unreadable: Sequence[str]
    strangers: Mapping[str, int]


def disorder(broker: Broker, queues: Sequence[Queue], *, overdue: float) -> Disorder:
    """Return what should not be; one round trip. Raises RedisUnavailable.

    A lease counts as forgotten `overdue` seconds after it has run out.
    """
    arguments: list[Argument] = [SAMPLE, int(overdue * 1000)]
    for queue in queues:
        arguments += (queue.name, int(queue.retention.failed_age))
    stock, stuck, leases, orphans, failures, types, unreadable, strangers = broker.run_script(
        "disorder", *arguments
    )
    names = [queue.name for queue in queues]
    return Disorder(
        stock_entries=stock,
        stuck=stuck,
        overdue_leases=[entry.decode() for entry in leases],
        orphans=sorted(entry.decode() for entry in orphans),
        failed={name: count for name, count in zip(names, failures, strict=True) if count},
        types=[(queue.decode(), name.decode()) for queue, name in _pairs(types)],
        unreadable=sorted({job.decode() for job, data in _pairs(unreadable) if not _is_ours(data)}),
        strangers={origin.decode(): int(jobs) for origin, jobs in _pairs(strangers)},
    )


def adopt_orphans(broker: Broker, queues: Sequence[Queue]) -> tuple[int, int]:
    """Let recovery find runs without a lease; clear away what is left of ended ones.

    Returns how many of either.
    """
    adopted, cleared = 0, 0
    while True:
        more, gone = broker.run_script("adopt", BULK, *(queue.name for queue in queues))
        adopted, cleared = adopted + more, cleared + gone
        if more + gone < BULK:
            return adopted, cleared


def missing(broker: Broker, runs: Sequence[tuple[str, str]]) -> tuple[str, set[str]]:
    """Return the last event's id, and which runs are gone, given as (job, run); one round trip.

    A job that has ended is not gone. Raises RedisUnavailable, also when the server is a replica.
    """
    arguments: list[Argument] = [part for pair in runs for part in pair]
    last, gone = broker.run_script("missing", *arguments)
    return last.decode(), {run.decode() for run in gone}


def run_out(broker: Broker) -> int:
    """Return how many leases have run out."""
    with available():
        seconds, micros = broker.connection.time()
        now = seconds * 1000 + micros // 1000
        return broker.connection.zcount(keys.LEASES, 0, now)


def other_prefixes(broker: Broker) -> Sequence[str]:
    """Return RQ_KEY_PREFIX of other installations in the same database, as far as a sample shows.

    A hundred thousand keys are looked at, in steps that hold the server for a few milliseconds.
    """
    found: set[str] = set()
    cursor = 0
    for _ in range(_STEPS):
        with available():
            answer: Any = broker.connection.scan(cursor, match="*jobserver:events", count=_STEP)
        cursor, names = answer
        found |= {name.decode().removesuffix("jobserver:events").rstrip(":") for name in names}
        if cursor == 0:
            break
    return sorted({prefix or "rq" for prefix in found} - {keys.RQ.removesuffix(":")})


def _pairs(flat: Sequence[bytes]) -> Iterator[tuple[bytes, bytes]]:
    return zip(flat[::2], flat[1::2], strict=True)


def _is_ours(data: bytes) -> bool:
    try:
        call_of(data)
    except ValueError:
        return False
    return True
