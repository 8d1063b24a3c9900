"""An exchange: what a worker hands in and asks for, and what it is answered, as they travel."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple

from redis.exceptions import ResponseError

from jobserver.broker import job as jobs
from jobserver.broker.scripts import Argument, Call
from jobserver.policy import Queue, Retention

OutcomeWord = Literal["completed", "failed", "retry", "snooze", "limited", "release", "canceled"]


class Share(NamedTuple):
    """What a worker would take of a queue: `quota` first, `room` at most, if others leave slots."""

    queue: Queue
    quota: int
    room: int


class Claim(NamedTuple):
    """A run that a worker holds; `exec` is the execution that alone can end it."""

    id: str
    exec: str
    run: str
    type: str
    data: bytes
    timeout: int
    attempt: int
    attempts: int
    backoff: str
    origin: str
    started: float
    canceled: bool
    trace: str = ""

    @property
    def entry(self) -> str:
        """The run's member in leases and RQ's started registry."""
        return f"{self.id}:{self.exec}"


class Ending(NamedTuple):
    """How a run ended: `value` is the packed result or traceback, `delay` seconds to its return.

    For `limited`, a snooze that holds back a rate key, `value` is that key ("": the job's own).
    `exit_reason` and `peak_mib` are of the process that ran it, as far as they are known.
    """

    claim: Claim
    word: OutcomeWord
    value: str = ""
    delay: float = 0
    error_type: str = ""
    error_message: str = ""
    reason: str = ""
    exit_reason: str = ""
    peak_mib: int = 0

    @property
    def exit(self) -> str:
        """Both as one text, "" when nothing is known: most jobs complete in a process that goes on.

        It is `<peak MiB> <exit reason>`.
        """
        if not self.exit_reason and not self.peak_mib:
            return ""
        return f"{self.peak_mib or ''} {self.exit_reason}"


def wanted(
    *,
    request: int,
    token: str,
    lease: float,
    processes: int,
    threads: int,
    shares: Sequence[Share],
    known: Iterable[str] = (),
    look: bool = True,
) -> list[Argument]:
    """Return the claim of `request`, the worker's own count; sent again it takes nothing more.

    `token` names this life of the worker: a worker's name may be used again. `known` are the
    executions it holds, of use to a claim that is sent again. Without `look` only those of
    several queues are visited that something of ours has pushed to since they were empty.
    """
    claim: list[Argument] = [request, token, int(lease * 1000), processes, threads]
    claim += (int(look), len(shares))
    for queue, quota, room in shares:
        executor = 1 if queue.executor == "process" else 2
        claim += (queue.name, executor, quota, room, queue.global_concurrency or 0)
    claim += known
    return claim


def exchange_call(
    worker: str,
    *,
    endings: Sequence[tuple[Ending, Retention]] = (),
    claim: Sequence[Argument] = (),
) -> Call:
    """Return the script call that hands ends in and, with a claim (`wanted`), takes runs."""
    kept: list[Argument] = []
    ends: list[Argument] = []
    places: dict[int, int] = {}  # of the retentions in `kept`, by their identity
    for ending, retention in endings:
        place = places.get(id(retention))
        if place is None:
            place = places[id(retention)] = len(places) + 1
            kept += (retention.completed_count, int(retention.completed_age))
            kept += (retention.failed_count, int(retention.failed_age))
        run, word = ending.claim, ending.word
        ends += (run.id, run.exec, word, ending.value, ending.exit, place)
        if word != "completed":
            ends += (int(ending.delay * 1000), ending.error_type)
            ends += (jobs.utf8(ending.error_message), jobs.utf8(ending.reason))
    return "exchange", [worker, len(places), *kept, len(endings), *ends, *claim]


def read_exchange(answer: Any) -> tuple[list[str], list[Claim], ResponseError | None]:
    """Return what became of each ending, the runs taken, and the error that kept them back."""
    words, rows = answer
    said = [word.decode() for word in words]
    if isinstance(rows, ResponseError):
        return said, [], rows
    return said, [_claim(*row) for row in rows], None


def _claim(
    id: bytes,
    exec: bytes,
    run: bytes,
    type: bytes,
    data: bytes,
    timeout: bytes,
    attempt: bytes,
    attempts: bytes,
    backoff: bytes,
    origin: bytes,
    started: bytes,
    canceled: bytes,
    trace: bytes,
) -> Claim:
    return Claim(
        id.decode(),
        exec.decode(),
        run.decode(),
        type.decode(),
        data,
        int(timeout or 180),
        int(attempt),
        int(attempts),
        backoff.decode(),
        origin.decode(),
        float(started),
        bool(canceled),
        trace.decode(),
    )
