"""Pages of a list: a signed cursor says where the next one begins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any
from urllib.parse import urlencode

from flask import request
from itsdangerous import BadSignature, URLSafeSerializer
from marshmallow import Schema, fields, validate

from jobserver.errors import PayloadInvalid
from jobserver.http import guard

DEFAULT_LIMIT = 50
LARGEST_LIMIT = 200


class PageSchema(Schema):
    """Which page of a list."""

    limit = fields.Integer(
        load_default=DEFAULT_LIMIT,
        validate=validate.Range(1, LARGEST_LIMIT),
        metadata={"description": "how many at most"},
    )
    cursor = fields.String(metadata={"description": "the `nextCursor` of the page before"})


@cache
def listed(item: type[Schema]) -> type[Schema]:
    """Return the schema of a page of these items."""
    name = item.__name__.removesuffix("Schema")
    members = {
        "items": fields.List(fields.Nested(item), required=True),
        "nextCursor": fields.String(
            required=True, allow_none=True, metadata={"description": "null on the last page"}
        ),
    }
    return type(f"{name}PageSchema", (Schema,), members)


def place(cursor: str | None, *, of: str) -> list[Any] | None:
    """Return what the cursor of a page of the list `of` holds; raises PayloadInvalid."""
    if cursor is None:
        return None
    try:
        held: list[Any] = _signer(of).loads(cursor)
    except BadSignature:
        detail = "The nextCursor of a page of this very list is accepted."
        raise PayloadInvalid(errors=[{"pointer": "#/cursor", "detail": detail}]) from None
    return held


def page(
    items: Sequence[Any], *, behind: Sequence[Any] | None, of: str, asked: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return body and headers of a page; `behind` is where the next one begins, None at the end.

    `asked` is the query, to be repeated in the Link to the next page (RFC 8288).
    """
    if behind is None:
        return {"items": items, "nextCursor": None}, {}
    cursor = _signer(of).dumps(list(behind))
    query = {name: value for name, value in asked.items() if value is not None}
    link = (
        f"{request.script_root}{request.path}?{urlencode({**query, 'cursor': cursor}, doseq=True)}"
    )
    return {"items": items, "nextCursor": cursor}, {"Link": f'<{link}>; rel="next"'}


def _signer(of: str) -> URLSafeSerializer:
    return URLSafeSerializer(guard.gate().signing_key(), salt=f"jobserver.cursor {of}")
