"""What a job may end with besides returning or raising: a closed set, raised by job functions."""

from __future__ import annotations

import math


class Outcome(BaseException):
    """Base of the outcomes; a BaseException, so that `except Exception` in a job lets it pass."""


class Discard(Outcome):
    """The job fails now and is not retried: `raise Discard("the shop is closed")`."""


class Snooze(Outcome):
    """The job comes back in `seconds`, a finite number (else ValueError); no attempt is spent."""

    def __init__(self, seconds: float) -> None:
        if not math.isfinite(seconds):
            raise ValueError(f"seconds={seconds!r} is not accepted: use a finite number")
        super().__init__(f"snoozed for {seconds} s")
        self.seconds = seconds


class RateLimited(Snooze):
    """The other side said "too many": the job comes back in `seconds`; no attempt is spent."""


class JobCanceled(Outcome):
    """The job was canceled while it ran; raised by `progress()`."""


class JobTimeout(Outcome):
    """The job ran longer than its timeout."""
