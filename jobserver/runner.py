"""Runs one job: looks its type up, checks its payload, calls it in the app, says how it ended."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Sequence
from typing import Any

import orjson

from jobserver import current, keeper, payload
from jobserver.broker import Claim, Ending
from jobserver.broker.job import call_of, packed_traceback, packed_value, scheduled_time
from jobserver.broker.stock import StockJob
from jobserver.errors import (
    CallbackRefused,
    DeclarationInvalid,
    PayloadInvalid,
    RedisUnavailable,
    UnknownJobType,
)
from jobserver.job_type import JobType
from jobserver.outcomes import Discard, JobCanceled, JobTimeout, Outcome, RateLimited, Snooze
from jobserver.policy import Backoff
from jobserver.progress import Reporter, Run, entered
from jobserver.redaction import masked
from jobserver.server import FUNCTION, Server

UNKNOWN_DELAY = 30.0  # seconds until a worker is asked again for a type or payload it does not know
TRACEBACK_BYTES = 16 * 1024
MESSAGE_CHARS = 1000

logger = logging.getLogger("jobserver.runner")


def run(type_name: str, values: dict[str, Any], *, scheduled_at: float | None = None) -> Any:
    """Run a job type with a payload and return its result: what a stock `rq worker` calls.

    There, `current_run` and `jobserver.scheduled_at` know nothing of the job. The registry is the
    allow-list: raises UnknownJobType for every other name.
    """
    server = current.server()
    job_type = server.registry.job_type(type_name)
    with current.application().app_context():
        return job_type(**job_type.decode(values))


def perform(server: Server, claim: Claim) -> Ending:
    """Run a claimed job to its end; never raises but for what ends the process."""
    job_type = None
    secrets = server.secrets
    try:
        function, sent, options = call_of(claim.data)
    except ValueError as error:
        logger.error("Job %s of type %r is unreadable: %s", claim.id, claim.type, error)
        return failure(
            claim,
            text=str(error),
            error_type="Unreadable",
            message=str(error),
            reason="unreadable",
            job_type=None,
            may_retry=False,
        )
    try:
        if function != FUNCTION:
            raise UnknownJobType(f"{function!r} is no job type of this server")
        # What stock RQ enqueued has its type only there.
        named = sent[0] if sent else ""
        values: Any = sent[1] if len(sent) > 1 else None
        job_type = server.registry.job_type(claim.type or str(named))
        secrets += job_type.secrets_of(values)
        arguments = job_type.decode(values)
        stock = None if claim.type else server.broker.stock_job(claim.id)
        for path in stock.callbacks if stock else ():
            server.registry.check_callback(path)
    except CallbackRefused as error:
        return failure(
            claim,
            text=str(error),
            error_type="CallbackRefused",
            message=_short(error),
            reason="callback refused",
            job_type=job_type,
            may_retry=False,
        )
    except (UnknownJobType, PayloadInvalid, RedisUnavailable) as error:
        reason = _short(error, secrets)
        logger.error("Job %s of type %r put off: %s", claim.id, claim.type, reason)
        return Ending(claim=claim, word="snooze", delay=UNKNOWN_DELAY, reason=reason)
    except Exception as error:  # a schema can hold code of its own
        return ending_of(claim, error, job_type=job_type, secrets=secrets)

    def report(percent: float, message: str) -> str:
        return server.broker.progress(claim.id, claim.exec, percent=percent, message=message)

    def look() -> str:
        return server.broker.standing(claim.id, claim.exec)

    def write(dropped: int, lines: Sequence[bytes]) -> None:
        ttl = server.lines_ttl(claim)
        server.broker.log(claim.id, claim.run, dropped=dropped, lines=lines, ttl=ttl)

    keeper.listen()
    run = Run(
        id=claim.id,
        run_id=claim.run,
        type=claim.type,
        attempt=claim.attempt,
        attempts=claim.attempts,
        reporter=Reporter(report, look),
        trace=claim.trace or claim.run or claim.id,
        secrets=secrets,
        write=write if claim.run else None,
        scheduled_at=scheduled_time(options),
    )
    try:
        with entered(run), server.app.app_context():
            result = job_type.function(**arguments)
            if stock:
                stock.succeeded(result)
        return Ending(
            claim=claim, word="completed", value=packed_value(payload.dumps_finite(result))
        )
    except BaseException as error:  # whatever a job raises is its end, not ours
        ending = ending_of(claim, error, job_type=job_type, secrets=secrets)
        if ending.word in ("failed", "retry"):
            if stock:
                ending = _stock_failure(
                    server, ending, error, stock=stock, job_type=job_type, secrets=secrets
                )
            if server.exception_handlers:
                _handle(server, claim, error)
        return ending


def _handle(server: Server, claim: Claim, error: BaseException) -> None:
    try:
        with server.app.app_context():
            server.broker.stock_job(claim.id).handle(server.exception_handlers, error)
    except Exception as raised:  # the handler's own, which changes nothing of the job's end
        logger.error("an exception handler failed for job %s: %r", claim.id, raised)


def _stock_failure(
    server: Server,
    ending: Ending,
    error: BaseException,
    *,
    stock: StockJob,
    job_type: JobType,
    secrets: Sequence[str],
) -> Ending:
    with server.app.app_context():
        raised = stock.failed(error)
    if raised is not error:
        ending = ending_of(ending.claim, raised, job_type=job_type, secrets=secrets)
    return ending._replace(delay=stock.retry_delay) if ending.word == "retry" else ending


def ending_of(
    claim: Claim,
    error: BaseException,
    *,
    job_type: JobType | None,
    secrets: Sequence[str] = (),
) -> Ending:
    """Return how a run ends that raised `error`; `secrets` are masked in what is said of it."""
    if isinstance(error, JobCanceled):
        return Ending(claim=claim, word="canceled", reason=_short(error, secrets))
    if isinstance(error, RateLimited):
        key, delay = error.key or "", error.seconds
        return Ending(claim=claim, word="limited", value=key, delay=delay, reason="rate limited")
    if isinstance(error, Snooze):
        return Ending(claim=claim, word="snooze", delay=error.seconds, reason="snoozed")
    return failure(
        claim,
        text=_traceback(error, secrets),
        error_type=type(error).__name__,
        message=_short(error, secrets),
        reason=_reason(error),
        job_type=job_type,
        may_retry=_may_retry(error, job_type),
    )


def failure(
    claim: Claim,
    *,
    text: str,
    error_type: str,
    message: str,
    reason: str,
    job_type: JobType | None,
    may_retry: bool = True,
) -> Ending:
    """Return the end of a failed attempt: a retry while attempts are left, else the failure."""
    retries = may_retry and claim.attempt < claim.attempts
    return Ending(
        claim=claim,
        word="retry" if retries else "failed",
        value=packed_traceback(text),
        delay=_backoff(claim, job_type).wait(claim.attempt) if retries else 0,
        error_type=error_type,
        error_message=message,
        reason=reason,
    )


def _backoff(claim: Claim, job_type: JobType | None) -> Backoff:
    declared = job_type.policy.backoff if job_type else Backoff()
    if not claim.backoff:
        return declared
    try:
        return Backoff(**orjson.loads(claim.backoff))
    except (ValueError, TypeError, DeclarationInvalid):  # of another release (rolling deploy)
        return declared


def _may_retry(error: BaseException, job_type: JobType | None) -> bool:
    if isinstance(error, JobTimeout):
        return True
    if isinstance(error, Outcome) or job_type is None:
        return False
    return job_type.policy.retries(type(error))


def _reason(error: BaseException) -> str:
    if isinstance(error, JobTimeout):
        return "timeout"
    return "discarded" if isinstance(error, Discard) else "error"


def _short(error: BaseException, secrets: Sequence[str] = ()) -> str:
    try:
        text = str(error)
    except Exception:
        text = "(its text cannot be had)"
    return masked(text or type(error).__name__, secrets)[:MESSAGE_CHARS]


def _traceback(error: BaseException, secrets: Sequence[str]) -> str:
    # The first frames are ours: the reader wants those of the job.
    frames = error.__traceback__.tb_next if error.__traceback__ else None
    text = "".join(traceback.format_exception(type(error), error, frames))
    return masked(text, secrets)[-TRACEBACK_BYTES:]
