"""Retrying runs on record: in Redis while it has the job, else anew from the ledger's payload.

A run is retried only while it is the last of its job. Every step may be repeated: a job that runs
again already is left alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from jobserver.broker import EnqueueRequest, Job
from jobserver.errors import JobServerError, PayloadInvalid, Unavailable, WrongState
from jobserver.ledger import dead_letters, runs
from jobserver.ledger.runs import Run, Sought
from jobserver.payload import job_id
from jobserver.redaction import REDACTED
from jobserver.server import Server

BATCH = 500
MOST = 10_000  # runs of one call
MOST_REFUSALS = 100  # that are told one by one

_MAY_RETRY = ("failed", "canceled")


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """A run that could not be retried, and why."""

    run: str
    job: str
    detail: str


@dataclass(kw_only=True)
class Tally:
    """What became of many runs.

    `retried` went on in Redis, `enqueued` began anew from the ledger, `skipped` run again already
    or have been followed by another run. `refused` counts all, `refusals` tells of the first 100.
    With `more`, as many as one call takes were met: call again.
    """

    retried: int = 0
    enqueued: int = 0
    skipped: int = 0
    refused: int = 0
    refusals: list[Refusal] = field(default_factory=list)
    more: bool = False

    def refuse(self, run: Run, detail: str) -> None:
        """Note that a run could not be retried."""
        self.refused += 1
        if len(self.refusals) < MOST_REFUSALS:
            self.refusals.append(Refusal(run=run.run, job=run.job, detail=detail))


def retry(
    server: Server,
    run: Run,
    *,
    payload: Mapping[str, Any] | None = None,
    call: str | None = None,
) -> Job:
    """Retry one run, with another payload if given, which makes it a new run.

    A type's own key is that of the new payload. `call` names this call as for `enqueue`. Raises
    WrongState unless it failed or was canceled and its job has not run since; what `enqueue`
    raises; PayloadInvalid when there is nothing to run it with.
    """
    if run.state not in _MAY_RETRY:
        raise WrongState(
            f"Run {run.run!r} is {run.state}; only failed or canceled ones are retried"
        )
    job = server.broker.fetch_many([run.job])[0]
    if job is None:
        later = runs.latest(server.db, run.job)
        if later is not None and later.run != run.run:
            raise WrongState(f"Job {run.job!r} has run since, as {later.run!r}; retry that")
    elif job.run_id != run.run:
        raise WrongState(f"Job {run.job!r} has run since, as {job.run_id!r}; retry that")
    elif job.status not in _MAY_RETRY:
        raise WrongState(f"Job {run.job!r} is {job.status}: it is retried already")
    elif payload is None:
        return server.retry(run.job)
    made = server.submit([_anew(server, run, payload=payload, call=call)])[0]
    if isinstance(made, JobServerError):
        raise made
    if made.duplicate:
        raise WrongState(f"Job {made.id!r} is {made.status}: it runs already")
    if (
        made.id != run.job
    ):  # the new run is not one of its job, so nothing else says that it is done
        dead_letters.settle(server.db, [run.run])
    return made


def retry_all(server: Server, sought: Sought) -> Tally:
    """Retry the dead letters that are sought, at most 10,000 at once, the oldest of them first."""
    tally = Tally()
    ids, tally.more = _dead(server, sought)
    for batch in _batches(ids[::-1]):
        _retry_batch(server, batch, tally)
    return tally


def discard_all(server: Server, sought: Sought) -> tuple[int, bool]:
    """Let those be dead letters no more, at most 10,000; return how many, and whether any is left.

    Redis keeps the failed jobs as long as its retention says.
    """
    ids, more = _dead(server, sought)
    return sum(dead_letters.settle(server.db, batch) for batch in _batches(ids)), more


def _dead(server: Server, sought: Sought) -> tuple[list[str], bool]:
    ids: list[str] = []
    last: str | None = None
    while len(ids) < MOST:
        found, last = runs.find(server.db, replace(sought, is_dead=True), before=last, limit=BATCH)
        ids += [run.run for run in found]
        if last is None:
            return ids, False
    return ids, True


def _batches(ids: Sequence[str]) -> Iterable[Sequence[str]]:
    return (ids[start : start + BATCH] for start in range(0, len(ids), BATCH))


def _retry_batch(server: Server, ids: Sequence[str], tally: Tally) -> None:
    found = runs.get_all(server.db, ids)
    batch = [found[run] for run in ids if run in found]
    in_redis: dict[int, list[Run]] = {}
    anew: list[tuple[Run, EnqueueRequest]] = []
    for run, job in zip(batch, server.broker.fetch_many([run.job for run in batch]), strict=True):
        if job is None:
            try:
                anew.append((run, _anew(server, run)))
            except JobServerError as error:
                if isinstance(error, Unavailable):
                    raise
                tally.refuse(run, str(error))
        elif job.run_id == run.run and job.status in _MAY_RETRY:
            in_redis.setdefault(server.attempts_of(run.type), []).append(run)
        else:
            tally.skipped += 1
    for attempts, chosen in in_redis.items():
        words = server.broker.retry([run.job for run in chosen], attempts=attempts)
        retried = words.count("retried")
        tally.retried += retried
        tally.skipped += len(words) - retried
    for (run, request), made in zip(
        anew, server.submit([request for _, request in anew]), strict=True
    ):
        if isinstance(made, JobServerError):
            tally.refuse(run, str(made))
        elif made.duplicate or made.run_id != request.run:  # another call was first
            tally.skipped += 1
        else:
            tally.enqueued += 1


def _anew(
    server: Server,
    run: Run,
    *,
    payload: Mapping[str, Any] | None = None,
    call: str | None = None,
) -> EnqueueRequest:
    """Return the request for a new run of a run's job; raises what `enqueue` does."""
    kind = server.registry.job_type(run.type)
    key: str | None = run.key or run.job
    if payload is None:
        # Repeated, it meets the answer to the first, even when that run has ended and is gone.
        payload, call = _kept(run), call or f"again-{run.run}"
    elif run.has_payload and kind.key is not None:
        own_key = kind.prepare(run.payload)[1]
        if own_key is not None and job_id(own_key) == run.job:
            key = None  # it was the type's, which knows the new one
    if key is not None and job_id(key) != run.job:
        raise PayloadInvalid(
            f"The key of run {run.run!r} was too long for the ledger; make a new job instead"
        )
    settings = server.settings(kind, priority=run.priority, owner=run.owner)
    return server.request(kind, payload, key=key, call=call, settings=settings)


def _kept(run: Run) -> Mapping[str, Any]:
    if not run.has_payload:
        raise PayloadInvalid(
            f"The payload of run {run.run!r} was too large for the ledger; give one with the retry"
        )
    if _is_redacted(run.payload):
        raise PayloadInvalid(
            f"The payload of run {run.run!r} has fields that the ledger must not know; give one "
            "with the retry"
        )
    values: Mapping[str, Any] = run.payload
    return values


def _is_redacted(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(_is_redacted(part) for part in value.values())
    if isinstance(value, list):
        return any(_is_redacted(part) for part in value)
    return bool(value == REDACTED)
