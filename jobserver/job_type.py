"""A job type: one decorated function, and all that is declared about it. Declaring has no effect elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from string import Formatter
from typing import TYPE_CHECKING, Any

from marshmallow import Schema

from jobserver import current, payload
from jobserver.errors import DeclarationInvalid, PayloadInvalid
from jobserver.policy import Policy, Queue

if TYPE_CHECKING:
    from jobserver.broker import Job


@dataclass(frozen=True, eq=False)
class JobType:
    """A declared kind of job. Calling it just runs the function; `enqueue` makes it a job."""

    function: Callable[..., Any]
    name: str = field(kw_only=True)
    queue: Queue = field(kw_only=True)
    policy: Policy = field(kw_only=True)
    schema: type[Schema] | None = field(default=None, kw_only=True)
    key: str | None = field(default=None, kw_only=True)
    example: Mapping[str, object] | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        # It is shown by help() and read by inspect.signature() as the function that it wraps.
        object.__setattr__(self, "__doc__", self.function.__doc__)
        object.__setattr__(self, "__wrapped__", self.function)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the function here and now, with no queue in between."""
        return self.function(*args, **kwargs)

    def enqueue(self, **values: object) -> Job:
        """Enqueue one job with this payload on the current server (see `Server.enqueue`)."""
        return current.server().enqueue(self, values)

    @cached_property
    def loader(self) -> Schema | None:
        """The schema's instance; building one costs 100 times more than using it."""
        return self.schema() if self.schema else None

    def encode(self, values: Mapping[str, object]) -> bytes:
        """Return the payload as JSON; raises PayloadInvalid or PayloadTooLarge."""
        return payload.encode(values, schema=self.loader)

    def decode(self, values: Mapping[str, object]) -> dict[str, Any]:
        """Return the function's keyword arguments; raises PayloadInvalid."""
        return payload.decode(values, schema=self.loader)

    def key_of(self, values: Mapping[str, object]) -> str | None:
        """Return the deduplication key of a payload, None when the type declares none."""
        if self.key is None:
            return None
        try:
            return self.key.format_map(values)
        except KeyError as error:
            name = str(error.args[0])
            raise PayloadInvalid(
                errors=[{"pointer": f"#/{name}", "detail": f"Required: the key is {self.key!r}."}]
            ) from None


def job(
    *,
    queue: Queue | str,
    schema: type[Schema] | None = None,
    key: str | None = None,
    example: Mapping[str, object] | None = None,
    policy: Policy | None = None,
    name: str | None = None,
) -> Callable[[Callable[..., Any]], JobType]:
    """Declare a job type. `key` is a template over the payload (`"follow-{follow_id}"`).

    The name is `<system>.<function>`: the system is the last part of the module's name, or, for a
    module called `jobs`, the package it lies in. Raises DeclarationInvalid.
    """

    def declare(function: Callable[..., Any]) -> JobType:
        declared = Queue(queue) if isinstance(queue, str) else queue
        job_type = JobType(
            function,
            name=name or f"{_system(function.__module__)}.{function.__name__}",
            queue=declared,
            policy=policy or _default_policy(declared),
            schema=schema,
            key=key,
            example=example,
        )
        _check(job_type)
        return job_type

    return declare


def _default_policy(queue: Queue) -> Policy:
    default = Policy()
    return Policy(
        attempts=queue.attempts or default.attempts, timeout=queue.timeout or default.timeout
    )


def _system(module: str) -> str:
    parts = module.split(".")
    return parts[-2] if parts[-1] == "jobs" and len(parts) > 1 else parts[-1]


def _check(job_type: JobType) -> None:
    if job_type.key is None:
        return
    names = {name for _, name, _, _ in Formatter().parse(job_type.key) if name}
    fields = set(job_type.schema._declared_fields) if job_type.schema else names
    if unknown := names - fields:
        raise DeclarationInvalid(
            f"{job_type.name}: key {job_type.key!r} names {', '.join(sorted(unknown))}, "
            f"which the schema does not have; it has {', '.join(sorted(fields))}"
        )
