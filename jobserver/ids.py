"""Identifiers: short, sortable by the time they were made, and safe as RQ job ids."""

from __future__ import annotations

import secrets
import time


def new_id() -> str:
    """Return 23 hex digits: 11 of Unix milliseconds, 12 random; later ids sort after earlier ones.

    Sortable ids keep the ledger's primary key appending, whatever its size.
    """
    return f"{time.time_ns() // 1_000_000:011x}{secrets.token_hex(6)}"
