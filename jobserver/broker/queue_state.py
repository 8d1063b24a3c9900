"""How a queue stands: numbers only, which cost the same however many jobs there are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from jobserver.policy import Queue

_STATES = ("waiting", "active", "delayed", "completed", "failed", "canceled")


@dataclass(frozen=True, kw_only=True, slots=True)
class Pause:
    """That a queue is paused: `until` a Unix time, 0 for ever, and why."""

    until: float
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class QueueState:
    """How many jobs of a queue are in which state, its three priorities as one; its pause, if any.

    `counts` has waiting, active, delayed, completed, failed and canceled; of the last three those
    that are kept. `completed_ever` is how many ever completed. `oldest_at` is since when the job
    waits that is next, of the three priorities the longest.
    """

    queue: Queue
    counts: Mapping[str, int]
    completed_ever: int
    pause: Pause | None
    oldest_at: datetime | None = None

    @property
    def bull_counts(self) -> dict[str, int]:
        """The jobs as Bull counts them, for the seeds' routes.

        What waits in a paused queue is `paused`, not waiting; `completed` never falls; `failed` is
        what can be retried now.
        """
        waiting = self.counts["waiting"]
        return {
            "waiting": 0 if self.pause else waiting,
            "active": self.counts["active"],
            "completed": self.completed_ever,
            "failed": self.counts["failed"],
            "delayed": self.counts["delayed"],
            "paused": waiting if self.pause else 0,
        }


def read(queues: Sequence[Queue], rows: Sequence[Sequence[int | bytes]]) -> dict[str, QueueState]:
    """Return what the script `statistics` answered for these queues, by name."""
    return {queue.name: _read(queue, *row) for queue, row in zip(queues, rows, strict=True)}


def _read(queue: Queue, *row: int | bytes) -> QueueState:
    *numbers, mark, oldest = row
    *kept, completed_ever = map(int, numbers)
    counts = dict(zip(_STATES, kept, strict=True))
    until, _, reason = bytes(mark).decode().partition(" ")
    return QueueState(
        queue=queue,
        counts=counts,
        # Of jobs that ended before anyone counted, those that are kept are known.
        completed_ever=max(counts["completed"], completed_ever),
        pause=Pause(until=int(until) / 1000, reason=reason) if until else None,
        oldest_at=datetime.fromisoformat(bytes(oldest).decode()) if oldest else None,
    )
