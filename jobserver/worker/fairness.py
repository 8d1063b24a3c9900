"""Fairness: how the free slots of a worker are offered to its queues, by their weights."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from jobserver.broker import Share
from jobserver.policy import Queue

HALF_LIFE = 300.0  # seconds after which the time that a queue has used counts half


@dataclass(slots=True)
class _Use:
    """What one queue has of the worker."""

    running: int = 0
    is_dry: bool = True  # had nothing more when it was last offered a slot
    seconds: float = 0.0  # of slots, used lately
    as_of: float = 0.0  # monotonic

    def used(self, now: float) -> float:
        """Return the slot seconds used, the older ones counting less."""
        return self.seconds * math.exp2((self.as_of - now) / HALF_LIFE) if self.seconds else 0.0


class Fairness:
    """Keeps what each queue uses. A queue's due is its part, by weight, of the worker's slots.

    Whoever has less than the whole slots of its due comes first, then who has less than its due
    rounded up; of these, who used the least for its weight lately: so weights hold with one slot
    too. Then whoever has the fewest slots for its weight. Only queues that have work share the
    slots; one that had none when it was last asked is asked for one job first.
    """

    def __init__(self, queues: Sequence[Queue], *, slots: Mapping[str, int]) -> None:
        """Make one for `queues`; `slots` says how many each executor has."""
        self._queues = list(queues)
        self._slots = slots
        self._uses = {queue.name: _Use() for queue in queues}
        self._weights = dict.fromkeys(slots, 0.0)
        for queue in queues:
            self._weights[queue.executor] += queue.weight

    def started(self, name: str) -> None:
        """Note that a job of a queue took a slot."""
        use = self._uses.setdefault(name, _Use())
        use.running += 1

    def ended(self, name: str, seconds: float, *, now: float) -> None:
        """Note that a job of a queue gave its slot back, at monotonic time `now`."""
        use = self._uses[name]
        use.running -= 1
        use.seconds, use.as_of = use.used(now) + seconds, now

    def answered(
        self, shares: Sequence[Share], taken: Mapping[str, int], *, asked: int, now: float
    ) -> None:
        """Note how many jobs each queue gave of the `asked` ones, when offered these shares."""
        given = sum(taken.values())
        last = -1
        for number, (queue, _, _) in enumerate(shares):
            if queue.name in taken:
                last = number
                if self._uses[queue.name].is_dry:
                    self._join(queue, now)
        for number, share in enumerate(shares if given < asked else shares[: last + 1]):
            wanted = asked if given < asked else min(share.quota, share.room)
            is_offered = given < asked or number < last
            got = taken.get(share.queue.name, 0)
            self._uses[share.queue.name].is_dry = is_offered and got < wanted

    def shares(
        self,
        free: Mapping[str, int],
        *,
        leaving: Iterable[str],
        asked: Mapping[str, int],
        now: float,
    ) -> list[Share]:
        """Return what to take of each queue when its executor has `free` slots, the first first.

        `leaving` names the queue of each run whose end the server hears of before it looks;
        `asked` says how many runs of limited queues may be on their way already.
        """
        gone: dict[str, int] = {}
        for name in leaving:
            gone[name] = gone.get(name, 0) + 1
        rivals = dict.fromkeys(self._slots, 0.0)  # the weights of the queues that have work
        offered = []
        for queue in self._queues:
            if free[queue.executor]:
                use = self._uses[queue.name]
                runs = use.running - gone.get(queue.name, 0)
                offered.append((queue, use, runs))
                if runs > 0 or not use.is_dry:
                    rivals[queue.executor] += queue.weight
        places = {}
        for queue, use, runs in offered:
            weight, used = queue.weight, use.used(now) / queue.weight
            has_work = runs > 0 or not use.is_dry
            due = self._slots[queue.executor] * weight / rivals[queue.executor] if has_work else 1
            if runs < math.floor(due):
                places[queue.name] = (0, used, runs / weight)
            elif runs < math.ceil(due):
                places[queue.name] = (1, used, runs / weight)
            else:
                places[queue.name] = (2, runs / weight, used)
        offered.sort(key=lambda one: places[one[0].name])
        shares = []
        for queue, _, runs in offered:
            slots = room = free[queue.executor]
            if queue.concurrency is not None:
                room = queue.concurrency - runs - asked.get(queue.name, 0)
            quota = math.ceil(slots * queue.weight / self._weights[queue.executor])
            shares.append(Share(queue, quota, max(0, min(room, slots))))
        return shares

    def _join(self, queue: Queue, now: float) -> None:
        """Let a queue that had no work have used no less than the others: it has saved nothing."""
        rates = [
            self._uses[other.name].used(now) / other.weight
            for other in self._queues
            if other.executor == queue.executor and not self._uses[other.name].is_dry
        ]
        use = self._uses[queue.name]
        use.seconds, use.as_of = max(use.used(now), min(rates, default=0) * queue.weight), now
