"""What a job may end with besides returning or raising: a closed set, raised by job functions."""

from __future__ import annotations

import math

LONGEST = 36525 * 86400  # seconds: a century; beyond the year 9999 a time has no date


class Outcome(BaseException):
    """Base of the outcomes; a BaseException, so that `except Exception` in a job lets it pass."""


class Discard(Outcome):
    """The job fails now and is not retried: `raise Discard("the shop is closed")`."""


class Snooze(Outcome):
    """The job comes back in `seconds`, a century at most (else ValueError); no attempt is spent."""

    def __init__(self, seconds: float) -> None:
        if not math.isfinite(seconds) or seconds > LONGEST:
            raise ValueError(f"seconds={seconds!r} is not accepted: use {LONGEST:.0f} at most")
        super().__init__(f"snoozed for {seconds} s")
        self.seconds = seconds


class RateLimited(Snooze):
    """The other side said "too many": the job comes back in `seconds`; no attempt is spent."""


class JobCanceled(Outcome):
    """The job was canceled while it ran; raised by `progress()`."""


class JobTimeout(Outcome):
    """The job ran longer than its timeout."""
