"""What a job may end with besides returning or raising: a closed set, raised by job functions."""

from __future__ import annotations

import math

SHORTEST = 1.0  # seconds: a job that comes back at once, for ever, would take a slot of its own
LONGEST = 36525 * 86400  # seconds: a century; beyond the year 9999 a time has no date


class Outcome(BaseException):
    """Base of the outcomes; a BaseException, so that `except Exception` in a job lets it pass."""


class Discard(Outcome):
    """The job fails now and is not retried: `raise Discard("the shop is closed")`."""


class Snooze(Outcome):
    """The job comes back in `seconds`; no attempt is spent.

    Less than a second counts as one; more than a century is refused by ValueError.
    """

    def __init__(self, seconds: float) -> None:
        if not math.isfinite(seconds) or seconds > LONGEST:
            raise ValueError(f"seconds={seconds!r} is not accepted: use {LONGEST:.0f} at most")
        super().__init__(f"snoozed for {seconds} s")
        self.seconds = max(SHORTEST, seconds)


class RateLimited(Snooze):
    """The other side said "too many": as Snooze, and until then no job with that rate key starts.

    `key` is what is held back; without one it is the job's own, its type's `limit_key`. Jobs that
    run already run on.
    """

    def __init__(self, seconds: float, *, key: str | None = None) -> None:
        if key is not None and not (isinstance(key, str) and key):
            raise ValueError(f"key={key!r} is not accepted: use a text, or none for the job's own")
        super().__init__(seconds)
        self.key = key


class JobCanceled(Outcome):
    """The job was canceled while it ran; raised by `progress()`."""


class JobTimeout(Outcome):
    """The job ran longer than its timeout."""
