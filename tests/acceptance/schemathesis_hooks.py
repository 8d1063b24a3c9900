"""What schemathesis must know beyond the document; it loads this module itself."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

import schemathesis

LONGEST_QUERY = 3000


@schemathesis.hook
def map_body(_context: object, body: Any) -> Any:
    """Send no 5.0 for an integer: it is one to JSON Schema, but not to marshmallow."""
    return _whole(body)


@schemathesis.hook
def filter_query(_context: object, query: Any) -> bool:
    """Send no query that the web server in front refuses for its length (414)."""
    return len(urlencode(query or {}, doseq=True)) < LONGEST_QUERY


def _whole(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {name: _whole(one) for name, one in value.items()}
    return [_whole(one) for one in value] if isinstance(value, list) else value
