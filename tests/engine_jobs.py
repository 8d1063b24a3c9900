"""Job types for the engine's tests; runs write to a journal that nothing else touches."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

from marshmallow import Schema, fields
from redis import Redis
from rq.job import Job as RQJob

from jobserver import (
    Discard,
    Policy,
    Queue,
    RateLimited,
    Retention,
    Snooze,
    current_run,
    fixed,
    job,
    progress,
)

KEPT = Retention(completed_count=100_000, failed_count=100_000)
PROCESSES = Queue("in-processes", key="PROC", aliases=("procs",), retention=KEPT)
THREADS = Queue("in-threads", executor="thread", retention=KEPT)
KEEPS_THREE = Queue("keeps-three", executor="thread", retention=Retention(completed_count=3))

gate = threading.Event()  # jobs of THREADS that run in this process can wait for it


def note(text: str) -> None:
    """Append a line to the journal, in one write."""
    run = current_run()
    path = os.environ.get("JOURNAL")
    if path is None:
        return
    line = f"{run.id if run else '-'} {run.attempt if run else 0} {os.getpid()} {text}\n"
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(fd, line.encode())
    finally:
        os.close(fd)


def journal() -> list[list[str]]:
    """Return the journal's lines: job id, attempt, pid, text."""
    path = Path(os.environ["JOURNAL"])
    return [line.split(" ", 3) for line in path.read_text().splitlines()] if path.exists() else []


class Sum(Schema):
    a = fields.Integer(required=True)
    b = fields.Integer(load_default=0)


class Named(Schema):
    name = fields.String(required=True)
    value = fields.Integer(load_default=0)


@job(queue=THREADS, schema=Sum, example={"a": 1, "b": 2})
def add(a: int, b: int) -> int:
    """Return a sum."""
    return a + b


@job(queue=THREADS, schema=Named, key="named-{name}", policy=Policy(attempts=2, backoff=fixed(0)))
def named(name: str, value: int) -> int:
    """A job with a key."""
    note(f"value={value}")
    return value


@job(queue=THREADS, schema=Named, key="named-{name}")
def other(name: str, value: int) -> None:
    """Another type that claims the same keys."""


@job(
    queue=THREADS,
    schema=Named,
    key="rerun-{name}",
    policy=Policy(when_active="rerun", backoff=fixed(0)),
)
def rerun(name: str, value: int) -> int:
    """A job whose updates must not be lost."""
    note(f"value={value}")
    return value


class Credentials(Schema):
    user = fields.String(required=True)
    password = fields.String(required=True, metadata={"secret": True})


@job(queue=THREADS, schema=Credentials)
def sign_in(user: str, password: str) -> None:
    """Take a payload that nobody may see."""


@job(queue=THREADS, policy=Policy(attempts=3, backoff=fixed(0)))
def fail() -> None:
    """Fail always."""
    note("fail")
    raise ValueError("always")


@job(queue=THREADS, policy=Policy(attempts=3, backoff=fixed(30)))
def fail_slowly() -> None:
    """Fail, and wait long before the next attempt."""
    raise ValueError("always")


@job(queue=THREADS)
def say(text: str) -> str:
    """Return a text."""
    return text


@job(queue=THREADS)
def discard() -> None:
    """Fail for good at once."""
    raise Discard("no use")


@job(queue=THREADS)
def snooze(seconds: float) -> str:
    """Come back once, later."""
    note("snooze")
    if len([line for line in journal() if line[0] == current_run().id]) < 2:  # type: ignore[union-attr]
        raise Snooze(seconds)
    return "rested"


class Call(Schema):
    shop_id = fields.Integer()
    is_limited = fields.Boolean(load_default=False)


@job(queue=THREADS, schema=Call, limit_key="shop-{shop_id}")
def call_shop(is_limited: bool, shop_id: int) -> None:
    """Call a shop that may say "too many"."""
    note("call")
    if is_limited:
        raise RateLimited(60)


@job(queue=THREADS)
def call_any(key: str) -> None:
    """Meet a limit that only the answer names."""
    raise RateLimited(60, key=key)


@job(queue=KEEPS_THREE)
def kept() -> None:
    """End, in a queue that keeps three."""


@job(queue=THREADS)
def unencodable() -> object:
    """Return what JSON cannot say."""
    return object()


@job(queue=THREADS)
def steps(count: int) -> int:
    """Report progress `count` times as fast as it can."""
    for done in range(count):
        progress(done + 1, count, message=f"step {done + 1}")
    return count


@job(queue=PROCESSES, policy=Policy(attempts=20, backoff=fixed(0), timeout=60))
def linger(seconds: float) -> int:
    """Take a while; 20 attempts, because tests kill its worker."""
    note("begin")
    time.sleep(seconds)
    note("end")
    return os.getpid()


@job(queue=PROCESSES, policy=Policy(attempts=20, backoff=fixed(0), timeout=60))
def linger_once(seconds: float) -> None:
    """Take a while in the first attempt only."""
    note("begin")
    run = current_run()
    if run and run.attempt == 1:
        time.sleep(seconds)


def on_success(job: RQJob, connection: Redis, result: object) -> None:
    """A callback of stock RQ's."""
    note(f"success {job.id} {result}")


def on_failure(job: RQJob, connection: Redis, *error: object) -> None:
    """A callback of stock RQ's."""
    note(f"failure {job.id} {error[1]}")


def on_stopped(job: RQJob, connection: Redis) -> None:
    """A callback of stock RQ's."""
    note(f"stopped {job.id}")


def on_success_badly(job: RQJob, connection: Redis, result: object) -> None:
    """A callback of stock RQ's that fails."""
    raise LookupError("no receipt")


def on_exception(job: RQJob, *error: object) -> None:
    """An exception handler of stock RQ's."""
    note(f"handled {job.id} {error[1]}")
