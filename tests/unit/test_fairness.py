"""How the queues of a worker share its slots, over simulated hours of work."""

from __future__ import annotations

from collections import Counter

import pytest

from jobserver.policy import Queue
from jobserver.worker.fairness import Fairness


class Worker:
    """Slots that are filled as the server fills them: queue after queue, in the order offered."""

    def __init__(self, weights: dict[str, float], *, slots: int) -> None:
        idle = {f"idle-{number}": 1.0 for number in range(12)}
        queues = [
            Queue(name, executor="thread", weight=weight)
            for name, weight in (idle | weights).items()
        ]
        self.fairness = Fairness(queues, slots={"thread": slots, "process": 0})
        self.slots = slots
        self.now = 0.0
        self.running: list[tuple[float, str, float]] = []
        self.got: dict[str, float] = dict.fromkeys(weights, 0)

    def fill(self, seconds: dict[str, float]) -> None:
        """Take jobs of the queues that have work, of so many seconds each."""
        while (free := self.slots - len(self.running)) > 0:
            shares = self.fairness.shares(
                {"thread": free, "process": 0}, leaving=(), asked={}, now=self.now
            )
            taken: Counter[str] = Counter()
            for most in ("quota", "room"):
                for share in shares:
                    name = share.queue.name
                    if name in seconds:
                        room = getattr(share, most) - (0 if most == "quota" else taken[name])
                        taken[name] += max(0, min(room, free - taken.total()))
            for name, count in taken.items():
                for _ in range(count):
                    self.fairness.started(name)
                    self.running.append((self.now + seconds[name], name, seconds[name]))
            self.fairness.answered(shares, taken, asked=free, now=self.now)
            if taken.total() < free:
                return

    def end_one(self) -> None:
        """Let the run end that ends first."""
        self.running.sort()
        self.now, name, seconds = self.running.pop(0)
        self.fairness.ended(name, seconds, now=self.now)
        self.got[name] += seconds

    def work(self, seconds: dict[str, float], *, until: float) -> None:
        """Go on while these queues always have jobs."""
        while self.now < until:
            self.fill(seconds)
            self.end_one()


@pytest.mark.parametrize("slots", [1, 2, 3, 4, 10])
@pytest.mark.parametrize("seconds", [(1, 1), (0.01, 0.01), (5, 0.5), (30, 30)])
def test_weights_hold_however_few_slots_there_are(slots: int, seconds: tuple[float, float]) -> None:
    heavy, light = seconds
    worker = Worker({"heavy": 3, "light": 1}, slots=slots)
    worker.work({"heavy": heavy, "light": light}, until=60 * sum(seconds))
    assert worker.got["heavy"] / sum(worker.got.values()) == pytest.approx(0.75, abs=0.08)


@pytest.mark.parametrize("slots", [1, 2, 8])
def test_a_queue_that_gets_work_is_served_beside_one_that_was_alone(slots: int) -> None:
    worker = Worker({"heavy": 3, "light": 1}, slots=slots)
    worker.work({"heavy": 1}, until=100)
    assert worker.got["light"] == 0
    worker.work({"heavy": 1, "light": 1}, until=102)
    assert worker.got["light"] > 0, "at the next free slot"
    worker.got = dict.fromkeys(worker.got, 0)
    worker.work({"heavy": 1, "light": 1}, until=152)
    share = worker.got["light"] / sum(worker.got.values())
    assert share == pytest.approx(0.25, abs=0.08), "what it did not use before is not owed to it"


@pytest.mark.parametrize("slots", [1, 2, 8])
def test_slots_that_one_leaves_are_the_others(slots: int) -> None:
    worker = Worker({"heavy": 3, "light": 1}, slots=slots)
    worker.work({"heavy": 1, "light": 1}, until=50)
    worker.got = dict.fromkeys(worker.got, 0)
    worker.work({"light": 1}, until=150)
    assert worker.got["light"] >= 99 * slots, "no slot lay idle"
