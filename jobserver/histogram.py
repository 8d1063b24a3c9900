"""How long things took, counted by bucket: what adds up over minutes, queues and processes."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

# Seconds; the last bucket has no bound. To change one makes what was counted so far wrong.
BOUNDS = (
    *(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5),
    *(1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0),
)
BUCKETS = len(BOUNDS) + 1


def bucket_of(seconds: float) -> int:
    """Return the number of the bucket that counts this long; a bound belongs to what it ends."""
    return bisect_left(BOUNDS, seconds)


@dataclass(frozen=True, kw_only=True, slots=True)
class Histogram:
    """How many were how long: `counts` by bucket, and how many seconds they took together."""

    counts: Sequence[int] = (0,) * BUCKETS
    seconds: float = 0.0

    def __add__(self, other: Self) -> Histogram:
        counts = [one + more for one, more in zip(self.counts, other.counts, strict=True)]
        return Histogram(counts=counts, seconds=self.seconds + other.seconds)

    @property
    def count(self) -> int:
        """How many there were."""
        return sum(self.counts)

    def quantile(self, share: float) -> float | None:
        """Return the seconds that this share (0 to 1) took at most, None of nothing.

        An estimate, exact only at the bounds: within a bucket all lengths count as equally likely,
        as Prometheus' histogram_quantile has it. Beyond the last bound it is that bound.
        """
        rank = share * self.count
        below = 0
        for bucket, count in enumerate(self.counts):
            if count and below + count >= rank:
                if bucket == len(BOUNDS):
                    break
                low = BOUNDS[bucket - 1] if bucket else 0.0
                return low + (BOUNDS[bucket] - low) * (rank - below) / count
            below += count
        return BOUNDS[-1] if self.count else None
