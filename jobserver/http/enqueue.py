"""What enqueuing takes over HTTP, and how it becomes a request of the engine."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from marshmallow import (
    Schema,
    ValidationError,
    fields,
    post_load,
    validate,
    validates_schema,
)

from jobserver import current
from jobserver.auth import Principal
from jobserver.broker import EnqueueRequest
from jobserver.errors import Forbidden, JobNotFound, KeyConflict, PayloadInvalid
from jobserver.http.schemas import Number, WholeNumber
from jobserver.policy import CENTURY, MOST, PRIORITIES, Backoff

MOST_KEY_CHARACTERS = 500


class PriorityField(fields.Field[str | int]):
    """A word, or Bull's number."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> str | int:
        if isinstance(value, str) and value in PRIORITIES:
            return value
        number = -1 if isinstance(value, str | bool) else WholeNumber().deserialize(value)
        if number is None or not 0 <= number <= MOST:
            raise ValidationError(f"Must be one of {', '.join(PRIORITIES)}, or 0 to {MOST}.")
        return number


class BackoffSchema(Schema):
    """Seconds to wait after a failed attempt: `delay`, times `factor` per attempt, or `delays`."""

    delay = Number(validate=validate.Range(0, CENTURY))
    factor = Number(validate=validate.Range(1, 1000))
    cap = Number(
        validate=validate.Range(0, CENTURY, min_inclusive=False), metadata={"exclusiveMinimum": 0}
    )
    jitter = Number(
        validate=validate.Range(0, 1), metadata={"description": "share of the wait drawn at random"}
    )
    delays = fields.List(
        Number(validate=validate.Range(0, CENTURY)),
        validate=validate.Length(max=100),
        metadata={"description": "the waits in turn; the last one repeats"},
    )

    @post_load
    def _made(self, values: dict[str, Any], **_: Any) -> Backoff:
        if "delays" in values:
            values["delays"] = tuple(values["delays"])
        return Backoff(**values)


class OptionsSchema(Schema):
    """How one job differs from what its type declares; times are in seconds."""

    delay = Number(
        validate=validate.Range(0, CENTURY), metadata={"description": "seconds before it may start"}
    )
    at = fields.AwareDateTime(metadata={"description": "when it may start; not with `delay`"})
    priority = PriorityField(
        metadata={
            "oneOf": [
                {"enum": list(PRIORITIES)},
                {"type": "integer", "minimum": 0, "maximum": MOST},
            ],
            "description": "or Bull's number: 1 to 3 are high, 4 to 10 normal, others low",
        }
    )
    key = fields.String(
        validate=validate.Length(1, MOST_KEY_CHARACTERS),
        metadata={"description": "while a job with this key is active, it is the answer"},
    )
    attempts = WholeNumber(validate=validate.Range(1, MOST))
    backoff = fields.Nested(BackoffSchema)
    timeout = WholeNumber(validate=validate.Range(1, MOST), metadata={"description": "seconds"})

    @validates_schema
    def _has_one_time(self, values: Mapping[str, Any], **_: Any) -> None:
        if "at" not in values:
            return
        if "delay" in values:
            raise ValidationError("Not together with delay.", "at")
        if values["at"] - datetime.now(UTC) > timedelta(seconds=CENTURY):
            raise ValidationError("Must be within a century.", "at")


class JobRequestSchema(Schema):
    """A job to be made; `GET /api/v1/types` has the types and the schemas of their payloads."""

    type = fields.String(required=True, metadata={"description": "the name of a job type"})
    payload = fields.Dict(keys=fields.String(), load_default=dict)
    options = fields.Nested(OptionsSchema, load_default=dict)


class AcceptedSchema(Schema):
    """A job that was made, or the active one that has its key (`duplicate`)."""

    id = fields.String(required=True)
    status = fields.String(required=True)
    statusUrl = fields.String(required=True)
    eventsUrl = fields.String(required=True)
    duplicate = fields.Boolean(required=True)


def prepared(order: Mapping[str, Any], *, asker: Principal, call: str | None) -> EnqueueRequest:
    """Return the request for one JobRequest; raises what `JobServer.enqueue` raises.

    A `user` becomes the owner of the job, and is refused types that are not for users, keys other
    than the type's own, and one that another's job holds.
    """
    server = current.server()
    if asker.role == "user":
        _check_user(order)
    try:
        request = server.prepared(
            order["type"], order["payload"], owner=asker.owner, call=call, **order["options"]
        )
    except PayloadInvalid as error:
        raise in_payload(error) from None
    if asker.role == "user":
        _check_holder(request, asker=asker)
    return request


def in_payload(error: PayloadInvalid) -> PayloadInvalid:
    """Return the error of a payload as one of the request whose member `payload` it is."""
    return PayloadInvalid(
        None if error.errors else str(error),
        errors=[
            {"pointer": f"#/payload{one['pointer'].removeprefix('#')}", "detail": one["detail"]}
            for one in error.errors
        ],
    )


def _check_user(order: Mapping[str, Any]) -> None:
    if not current.server().registry.job_type(order["type"]).users:
        raise Forbidden(f"Jobs of the type {order['type']!r} are not for users to make.")
    if "key" in order["options"]:
        # It could be the one that the application's own job is about to have.
        raise Forbidden("A user's jobs have the keys that their types declare.")


def _check_holder(request: EnqueueRequest, *, asker: Principal) -> None:
    # A job with that id would be shown, or if it has ended replaced.
    try:
        held = current.server().fetch(request.id)
    except JobNotFound:
        return
    if not asker.sees(held.owner):
        raise KeyConflict(f"Key {request.key or request.id!r} is held by a job of another owner")
