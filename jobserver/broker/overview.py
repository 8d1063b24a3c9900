"""A queue at a glance, in one round trip: how it stands, some jobs, the recurring entries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jobserver.broker import entries, queue_state
from jobserver.broker.broker import Broker, listed_call, read_listed
from jobserver.broker.entry import Entry
from jobserver.broker.job import Job
from jobserver.broker.queue_state import QueueState
from jobserver.policy import Queue


@dataclass(frozen=True, kw_only=True, slots=True)
class Overview:
    """A queue at a glance; `entries` are all recurring ones, with the Unix time each is due."""

    state: QueueState
    jobs: list[Job]
    entries: list[tuple[Entry, float | None]]


def overview(
    broker: Broker, queue: Queue, *, registries: Sequence[str], start: int, end: int
) -> Overview:
    """Return a queue at a glance, with the jobs of these registries from rank `start` to `end`."""
    calls = [listed_call(queue, registry, start=start, end=end) for registry in registries]
    states, recurring, *listings = broker.run_scripts(
        [("statistics", [queue.name]), ("entries", []), *calls]
    )
    return Overview(
        state=queue_state.read([queue], states)[queue.name],
        jobs=[job for listing in listings for job in read_listed(listing)],
        entries=entries.read(recurring),
    )
