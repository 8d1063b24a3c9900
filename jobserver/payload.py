"""What travels: JSON in and out, checked against the job type's schema, at most 1 MiB."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from decimal import Decimal
from typing import Any

import orjson
from marshmallow import Schema, ValidationError

from jobserver.errors import FieldError, PayloadInvalid, PayloadTooLarge

MAX_BYTES = 1024 * 1024

_AROUND = 8  # levels that answers and schedules may have around a payload or result

_SAFE_ID = re.compile(r"[A-Za-z0-9_-]{1,120}")
_UNSAFE = re.compile(r"[^A-Za-z0-9_-]+")
_HASHED = re.compile(r"--[0-9a-f]{16}\Z")


class NotFinite(ValueError):
    """A number that JSON cannot say, and where it is (`#/price`)."""

    def __init__(self, pointer: str) -> None:
        super().__init__(f"the number at {pointer} is not finite, which JSON cannot say")
        self.pointer = pointer


def dumps(value: object) -> bytes:
    """Return compact JSON; datetime, date, UUID and enum as RFC 3339 / text, Decimal as text.

    Raises TypeError for what JSON cannot say.
    """
    return orjson.dumps(value, default=_plain, option=orjson.OPT_NON_STR_KEYS)


def dumps_finite(value: object) -> bytes:
    """As `dumps`, for what is kept; raises NotFinite for NaN and infinities, else written as null.

    Refuses, too, what is nested so deep that no answer could hold it: orjson writes 254 levels.
    """
    if value is None:  # what most jobs return
        return b"null"
    data = dumps([[[[[[[[value]]]]]]]])[_AROUND:-_AROUND]
    if b"null" in data and (wrong := _infinite(value, "#")):
        raise NotFinite(wrong)
    return data


def loads(data: bytes | str) -> Any:
    """Return the value of a JSON text; raises ValueError (orjson.JSONDecodeError)."""
    return orjson.loads(data)


def encode(payload: Mapping[str, object]) -> bytes:
    """Return the payload as JSON; raises PayloadInvalid or PayloadTooLarge."""
    try:
        data = dumps_finite(payload)
    except NotFinite as error:
        detail = "Must be a finite number."
        raise PayloadInvalid(errors=[{"pointer": error.pointer, "detail": detail}]) from None
    except TypeError as error:
        raise PayloadInvalid(f"The payload cannot be written as JSON: {error}.") from error
    if len(data) > MAX_BYTES:
        raise PayloadTooLarge(
            f"The payload has {len(data)} bytes; at most {MAX_BYTES} are accepted."
        )
    return data


def decode(
    payload: Mapping[str, object], *, schema: type[Schema] | Schema | None
) -> dict[str, Any]:
    """Return the keyword arguments that a JSON payload stands for; raises PayloadInvalid."""
    if not isinstance(payload, Mapping):
        raise PayloadInvalid(errors=[{"pointer": "#", "detail": "Must be an object."}])
    if schema is None:
        return dict(payload)
    instance = schema if isinstance(schema, Schema) else schema()
    try:
        loaded = instance.load(payload)
    except ValidationError as error:
        raise PayloadInvalid(errors=field_errors(error.messages)) from error
    return dict(loaded)


def field_errors(messages: Any, *, pointer: str = "#") -> list[FieldError]:
    """Flatten marshmallow's nested messages into JSON pointers (RFC 6901) with their details."""
    if isinstance(messages, dict):
        return [
            error
            for name, nested in messages.items()
            for error in field_errors(
                nested, pointer=pointer if name == "_schema" else f"{pointer}/{_escaped(name)}"
            )
        ]
    details = messages if isinstance(messages, list) else [messages]
    return [{"pointer": pointer, "detail": str(detail)} for detail in details]


def job_id(key: str) -> str:
    """Return the job id of a deduplication key: verbatim where RQ allows it, else slug and hash.

    Two keys never share an id: one that looks like another's slug and hash is hashed itself. Raises
    PayloadInvalid for a key that is no Unicode text (a lone surrogate from a JSON escape).
    """
    if _SAFE_ID.fullmatch(key) and not _HASHED.search(key):
        return key
    try:
        digest = hashlib.sha256(key.encode()).hexdigest()[:16]
    except UnicodeEncodeError:
        raise PayloadInvalid(f"The key {key!r} is no Unicode text.") from None
    slug = _UNSAFE.sub("-", key).strip("-")[:60] or "key"
    return f"{slug}--{digest}"


def _infinite(value: object, pointer: str) -> str | None:
    """Return where a number is that JSON cannot say."""
    if isinstance(value, float):
        return None if math.isfinite(value) else pointer
    parts: Iterable[tuple[object, object]] = ()
    if isinstance(value, Mapping):
        parts = value.items()
    elif isinstance(value, list | tuple | set | frozenset):
        parts = enumerate(value)
    elif is_dataclass(value):
        parts = ((field.name, getattr(value, field.name)) for field in fields(value))
    for name, part in parts:
        if found := _infinite(part, f"{pointer}/{_escaped(name)}"):
            return found
    return None


def _plain(value: object) -> object:
    if isinstance(value, Decimal):
        return str(value)
    if isinstance(value, set | frozenset):
        return sorted(value)
    raise TypeError(f"{type(value).__name__} is not JSON")


def _escaped(name: object) -> str:
    return str(name).replace("~", "~0").replace("/", "~1")
