"""A job type: one decorated function and what is declared of it; declaring does nothing else."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from string import Formatter
from typing import TYPE_CHECKING, Any

from marshmallow import Schema

from jobserver import current, payload, redaction
from jobserver.errors import DeclarationInvalid, FieldError, PayloadInvalid
from jobserver.policy import Policy, Queue

if TYPE_CHECKING:
    from jobserver.broker import Job

_NAME = re.compile(r"[\w-]+(\.[\w-]+)*", re.ASCII)
_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


@dataclass(frozen=True, eq=False)
class JobType:
    """A declared kind of job. Calling it just runs the function; `enqueue` makes it a job."""

    function: Callable[..., Any]
    name: str = field(kw_only=True)
    queue: Queue = field(kw_only=True)
    policy: Policy = field(kw_only=True)
    schema: type[Schema] | None = field(default=None, kw_only=True)
    key: str | None = field(default=None, kw_only=True)
    limit_key: str | None = field(default=None, kw_only=True)
    example: Mapping[str, object] | None = field(default=None, kw_only=True)
    users: bool = field(default=False, kw_only=True)

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

    @cached_property
    def signature(self) -> inspect.Signature:
        """The function's parameters."""
        return inspect.signature(self.function)

    def encode(self, values: Mapping[str, object]) -> bytes:
        """Return the payload as JSON; raises PayloadInvalid or PayloadTooLarge."""
        return self.prepare(values)[0]

    def prepare(self, values: Mapping[str, object]) -> tuple[bytes, str | None, str | None]:
        """Return the payload as JSON, its deduplication key and its rate key.

        A key is None when the type declares none. Raises PayloadInvalid or PayloadTooLarge.
        """
        data = payload.encode(values)
        # The keys are of what the payload means: 1 and "01" are one number to the schema.
        arguments = self.decode(payload.loads(data))
        return data, _filled(self.key, arguments), _filled(self.limit_key, arguments)

    @cached_property
    def is_marked(self) -> bool:
        """Whether the schema marks any field as secret."""
        return redaction.is_marked(self.loader)

    def redacted(self, values: Any) -> Any:
        """Return a payload as it may be shown: without what its marked fields hold."""
        return redaction.redacted(self.loader, values) if self.is_marked else values

    def secrets_of(self, values: Any) -> tuple[str, ...]:
        """Return what a payload's marked fields hold, to be masked in texts."""
        return redaction.secrets_of(self.loader, values) if self.is_marked else ()

    def decode(self, values: Mapping[str, object]) -> dict[str, Any]:
        """Return the function's keyword arguments; raises PayloadInvalid."""
        arguments = payload.decode(values, schema=self.loader)
        if self.loader is None and (wrong := _misfits(self.signature, arguments)):
            raise PayloadInvalid(errors=wrong)
        return arguments


def job(
    *,
    queue: Queue | str,
    schema: type[Schema] | None = None,
    key: str | None = None,
    limit_key: str | None = None,
    example: Mapping[str, object] | None = None,
    policy: Policy | None = None,
    name: str | None = None,
    users: bool = False,
) -> Callable[[Callable[..., Any]], JobType]:
    """Declare a job type. `key` is a template over the payload (`"follow-{follow_id}"`).

    So is `limit_key` (`"shopify-{shop_id}"`): what jobs of one rate limit have in common, whatever
    their types and queues; see RateLimited. With `users`, who has the role `user` may enqueue it
    over HTTP, with any payload; else that takes an operator.

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
            limit_key=limit_key,
            example=example,
            users=users,
        )
        _check(job_type)
        return job_type

    return declare


def _default_policy(queue: Queue) -> Policy:
    default = Policy()
    return Policy(
        attempts=queue.attempts or default.attempts,
        backoff=queue.backoff or default.backoff,
        timeout=queue.timeout or default.timeout,
    )


def _system(module: str) -> str:
    parts = module.split(".")
    return parts[-2] if parts[-1] == "jobs" and len(parts) > 1 else parts[-1]


def _check(job_type: JobType) -> None:
    name = job_type.name
    # It travels inside JSON and names a route.
    if not _NAME.fullmatch(name):
        raise DeclarationInvalid(f"name={name!r} is not accepted: use letters, digits and _ - .")
    if inspect.iscoroutinefunction(job_type.function):
        raise DeclarationInvalid(f"{name} is async: a job type is a plain function")
    for word, key in (("key", job_type.key), ("limit_key", job_type.limit_key)):
        if key is not None:
            _check_template(job_type, word, key)


def _check_template(job_type: JobType, word: str, key: str) -> None:
    name = job_type.name
    try:
        names = [field for _, field, _, _ in Formatter().parse(key) if field is not None]
    except ValueError as error:
        raise DeclarationInvalid(f"{name}: {word} {key!r} is no template: {error}") from None
    fields = _loaded_names(job_type)
    if unknown := sorted(set(names) - fields):
        raise DeclarationInvalid(
            f"{name}: {word} {key!r} names {', '.join(map(repr, unknown))}, "
            f"which the payload does not have; it has {', '.join(sorted(fields))}"
        )
    if secret := sorted(set(names) & _secret_names(job_type)):
        raise DeclarationInvalid(
            f"{name}: {word} {key!r} names {', '.join(map(repr, secret))}, which is secret: "
            "keys are shown"
        )


def _filled(template: str | None, arguments: Mapping[str, object]) -> str | None:
    if template is None:
        return None
    try:
        return template.format_map(arguments)
    except KeyError as error:
        name = str(error.args[0])
        raise PayloadInvalid(
            errors=[{"pointer": f"#/{name}", "detail": f"Required: the key is {template!r}."}]
        ) from None


def _loaded_names(job_type: JobType) -> set[str]:
    if job_type.schema is None:
        return set(job_type.signature.parameters)
    declared = job_type.schema._declared_fields.items()
    return {field.attribute or name for name, field in declared}


def _secret_names(job_type: JobType) -> set[str]:
    declared = job_type.schema._declared_fields.items() if job_type.schema else ()
    return {field.attribute or name for name, field in declared if redaction.hides(field)}


def _misfits(signature: inspect.Signature, arguments: Mapping[str, object]) -> list[FieldError]:
    """Return what a payload without a schema has too much or too little for the function."""
    parameters = signature.parameters.values()
    required = {p.name for p in parameters if p.default is p.empty and p.kind in _NAMED}
    known = {p.name for p in parameters if p.kind in _NAMED}
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters)
    unknown = set() if takes_all else set(arguments) - known
    wrong = dict.fromkeys(sorted(unknown), "Unknown field.")
    wrong |= dict.fromkeys(sorted(required - set(arguments)), "Missing data for required field.")
    return [{"pointer": f"#/{name}", "detail": detail} for name, detail in wrong.items()]
