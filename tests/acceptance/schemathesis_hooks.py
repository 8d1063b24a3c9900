"""What schemathesis must know of our numbers; it loads this module itself."""

from __future__ import annotations

from typing import Any

import schemathesis


@schemathesis.hook
def map_body(_context: object, body: Any) -> Any:
    """Send no 5.0 for an integer: it is one to JSON Schema, but not to marshmallow."""
    return _whole(body)


def _whole(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, dict):
        return {name: _whole(one) for name, one in value.items()}
    return [_whole(one) for one in value] if isinstance(value, list) else value
