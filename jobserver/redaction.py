"""What is shown to nobody: payload fields declared with `metadata={"secret": True}`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from marshmallow import Schema, fields

REDACTED = "[redacted]"
SHORTEST = 4  # characters of a secret that is looked for in texts: less is in every other word

Note = Callable[[object], None]


def redacted(schema: type[Schema] | Schema | None, payload: Any) -> Any:
    """Return a payload with `"[redacted]"` for every marked field, nested ones and lists included.

    A mark on a field that holds others hides them all. None stays: it hides nothing.
    """
    return payload if schema is None else _object(_made(schema), payload, lambda _: None)


def secrets_of(schema: type[Schema] | Schema | None, payload: Any) -> tuple[str, ...]:
    """Return the texts and numbers in a payload's marked fields, the longest first."""
    found: list[object] = []
    if schema is not None:
        _object(_made(schema), payload, found.append)
    texts = {text for value in found for text in _texts(value) if len(text) >= SHORTEST}
    # Messages have it with escapes, too: Python's in a repr, JSON's in an answer.
    texts |= {said(text)[1:-1] for text in texts for said in (repr, json.dumps)}
    return tuple(sorted(texts, key=len, reverse=True))


def masked(text: str, secrets: Sequence[str]) -> str:
    """Return a text with `[redacted]` in the place of every secret."""
    for secret in secrets:
        text = text.replace(secret, REDACTED)
    return text


def is_marked(schema: type[Schema] | Schema | None) -> bool:
    """Return whether any field of a schema is marked, at whatever depth."""
    return schema is not None and _marks(_made(schema).fields.values(), seen=set())


def hides(field: fields.Field[Any]) -> bool:
    """Return whether a field is marked itself."""
    return bool(field.metadata.get("secret"))


def _made(schema: type[Schema] | Schema) -> Schema:
    return schema() if isinstance(schema, type) else schema


def _object(schema: Schema, value: Any, note: Note) -> Any:
    if not isinstance(value, Mapping):
        return value
    declared = {field.data_key or name: field for name, field in schema.fields.items()}
    return {
        name: _part(declared[name], part, note) if name in declared else part
        for name, part in value.items()
    }


def _part(field: fields.Field[Any], value: Any, note: Note) -> Any:
    if value is None:
        return None
    if hides(field):
        note(value)
        return REDACTED
    if isinstance(field, fields.Nested):
        if field.many or field.schema.many:
            return _each(value, lambda one: _nested(field, one, note))
        return _nested(field, value, note)
    if isinstance(field, fields.List):
        return _each(value, lambda one: _part(field.inner, one, note))
    if isinstance(field, fields.Tuple) and isinstance(value, list):
        inner = zip(field.tuple_fields, value, strict=False)
        return [_part(one, part, note) for one, part in inner]
    if isinstance(field, fields.Mapping) and field.value_field and isinstance(value, Mapping):
        of = field.value_field
        return {name: _part(of, part, note) for name, part in value.items()}
    return value


def _nested(field: fields.Nested, value: Any, note: Note) -> Any:
    if isinstance(field, fields.Pluck):
        return _part(field.schema.fields[field.field_name], value, note)
    return _object(field.schema, value, note)


def _each(value: Any, change: Callable[[Any], Any]) -> Any:
    return [change(one) for one in value] if isinstance(value, list) else value


def _texts(value: object) -> list[str]:
    if isinstance(value, Mapping):
        return [text for part in value.values() for text in _texts(part)]
    if isinstance(value, list):
        return [text for part in value for text in _texts(part)]
    return [] if value is None or isinstance(value, bool) else [str(value)]


def _marks(declared: Any, *, seen: set[type[Schema]]) -> bool:
    for field in declared:
        if hides(field):
            return True
        inner = [getattr(field, "inner", None), getattr(field, "value_field", None)]
        inner += getattr(field, "tuple_fields", [])
        if isinstance(field, fields.Nested) and type(field.schema) not in seen:
            seen.add(type(field.schema))
            inner += field.schema.fields.values()
        if _marks([one for one in inner if one], seen=seen):
            return True
    return False
