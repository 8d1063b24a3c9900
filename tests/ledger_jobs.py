"""Job types that end in every way there is, for the tests of the ledger."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from jobserver import (
    Discard,
    Policy,
    Queue,
    Retention,
    Snooze,
    cancel_requested,
    current_run,
    fixed,
    job,
)

KEPT = Retention(completed_count=1_000_000, failed_count=1_000_000)
SWIFT = Queue("swift", executor="thread", retention=KEPT)
APART = Queue("apart", retention=KEPT)
# Kills are many: a job must not fail for having been under several of them.
PATIENT = Policy(attempts=20, backoff=fixed(0), timeout=60)


def is_first(what: str) -> bool:
    """Return whether this run, in whichever attempt, does something for the first time."""
    run = current_run()
    assert run is not None
    path = Path(os.environ["JOBSERVER_INSTANCE"]) / f"{run.run_id}-{what}"
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


@job(queue=SWIFT, policy=PATIENT)
def succeed(number: int) -> int:
    """Return the number."""
    return number


@job(queue=SWIFT, policy=Policy(attempts=2, backoff=fixed(0)))
def fail(number: int) -> None:
    """Fail at every attempt."""
    raise ValueError(f"no {number}")


@job(queue=SWIFT, policy=PATIENT)
def discard(number: int) -> None:
    """Fail at once, for good."""
    raise Discard(f"no use of {number}")


@job(queue=SWIFT, policy=Policy(attempts=20, backoff=fixed(0.2)))
def recover(number: int) -> int:
    """Fail once, and succeed a moment later."""
    if is_first("failure"):
        raise LookupError("not yet")
    return number


@job(queue=SWIFT, policy=PATIENT)
def snooze(number: int) -> int:
    """Come back once."""
    if is_first("snooze"):
        raise Snooze(0.1)
    return number


@job(queue=SWIFT, policy=Policy(attempts=20, when_active="rerun", backoff=fixed(0)))
def rerun(number: int) -> int:
    """Take long enough for another one to be noted."""
    time.sleep(0.05)
    return number


@job(queue=SWIFT, policy=PATIENT)
def linger(number: int) -> int:
    """Last until it is canceled, or half a second."""
    until = time.monotonic() + 0.5
    while time.monotonic() < until and not cancel_requested():
        time.sleep(0.02)
    return number


@job(queue=APART, policy=PATIENT)
def compute(number: int) -> int:
    """Return the number from a process."""
    return number


@job(queue=APART, policy=PATIENT)
def crash(number: int) -> int:
    """End the process in the first attempt."""
    if is_first("crash"):
        os.kill(os.getpid(), signal.SIGSEGV if number % 2 else signal.SIGKILL)
    return number


@job(queue=APART, policy=Policy(attempts=20, backoff=fixed(0), timeout=1))
def overrun(number: int) -> int:
    """Run into the timeout in the first attempt."""
    if is_first("overrun"):
        time.sleep(30)
    return number
