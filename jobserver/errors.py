"""Every error of the engine: one sentence that says what happened, and its HTTP status."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, TypedDict


class FieldError(TypedDict):
    """One wrong field: a JSON pointer into the request (`#/recipient`) and what is accepted."""

    pointer: str
    detail: str


class JobServerError(Exception):
    """The job server could not do what was asked."""

    status: ClassVar[int] = 500
    retry_after: int | None = None  # seconds

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or type(self).title())

    @classmethod
    def title(cls) -> str:
        """Return the first line of the docstring: the error's default message."""
        return (cls.__doc__ or cls.__name__).strip().splitlines()[0]


class ConfigInvalid(JobServerError):
    """A setting has a value that is not accepted."""


class DeclarationInvalid(JobServerError):
    """A job type, queue or schedule is declared in a way that cannot work."""


class NotMigrated(JobServerError):
    """The engine's tables are not up to date; run `flask jobs migrate`."""


class Malformed(JobServerError):
    """The request could not be read."""

    status = 400


class Unauthorized(JobServerError):
    """A valid bearer token or a signed-in session is required."""

    status = 401


class Forbidden(JobServerError):
    """This principal may not do that."""

    status = 403


class NotFound(JobServerError):
    """There is no such thing here."""

    status = 404


class JobNotFound(NotFound):
    """No job with this id is known."""


class RunNotFound(NotFound):
    """No run with this id is on record."""


class UnknownJobType(NotFound):
    """No job type with this name is registered."""


class CallbackRefused(NotFound):
    """A callback names no function of a module that declares job types."""


class UnknownQueue(NotFound):
    """No queue with this name, key or alias is declared."""


class ScheduleNotFound(NotFound):
    """No schedule with this id is known."""


class TokenNotFound(NotFound):
    """No token has this name."""


class TokenExists(JobServerError):
    """A token of this name exists or existed."""

    status = 409


class KeyConflict(JobServerError):
    """The key is held by a job of another type."""

    status = 409


class WrongState(JobServerError):
    """The job or schedule is not in a state that allows this."""

    status = 409


class IdempotencyInFlight(JobServerError):
    """A request with this Idempotency-Key is being worked on; repeat it later."""

    status = 409
    retry_after = 1


class Gone(JobServerError):
    """It was here, and is no more."""

    status = 410


class JobPurged(Gone):
    """The job was removed."""


class PayloadTooLarge(JobServerError):
    """The payload is larger than 1 MiB."""

    status = 413


class ResultTooLarge(JobServerError):
    """The job's result is larger than 1 MiB."""


class PayloadInvalid(JobServerError):
    """The input is not valid."""

    status = 422

    def __init__(self, message: str | None = None, *, errors: Sequence[FieldError] = ()) -> None:
        self.errors = list(errors)
        listed = "; ".join(f"{error['pointer']}: {error['detail']}" for error in self.errors)
        super().__init__(" ".join(part for part in (message or self.title(), listed) if part))


class IdempotencyMismatch(JobServerError):
    """This Idempotency-Key was used for another request; use a new one."""

    status = 422


class QuotaExceeded(JobServerError):
    """There were too many requests; repeat this one later."""

    status = 429

    def __init__(self, message: str | None = None, *, retry_after: int = 1) -> None:
        super().__init__(message)
        self.retry_after = max(1, retry_after)


class NotBuilt(JobServerError):
    """This is planned, but not built yet."""

    status = 501


class NoDatabase(JobServerError):
    """This needs a database: JobServer(app, db=…)."""

    status = 501


class Unavailable(JobServerError):
    """A server behind this one cannot be reached."""

    status = 503
    retry_after = 2


class RedisUnavailable(Unavailable):
    """Redis cannot be reached; nothing was written."""


class LedgerBehind(RedisUnavailable):
    """No job can be enqueued until the ledger has caught up: what it lacks is at its bound."""

    retry_after = 10


class DatabaseUnavailable(Unavailable):
    """The database cannot be reached."""
