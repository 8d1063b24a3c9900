"""A finding: something that is, or soon will be, wrong, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning", "info"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One finding. `name` is what docs/operations/troubleshooting.md knows it by.

    error: jobs don't run, or may be lost; warning: they soon may; info: somebody meant it so.
    """

    severity: Severity
    name: str
    what: str
    why: str
    remedy: str


def some(things: Iterable[str], *, most: int = 5) -> str:
    """Return the first few of some things, and how many more there are."""
    known = list(things)
    left = len(known) - most
    return ", ".join(known[:most]) + (f" and {left} more" if left > 0 else "")


def counted(number: int, thing: str) -> str:
    """Return `1 job`, `2 jobs`."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def age(seconds: float) -> str:
    """Return a time span as an operator reads it: 45 s, 12 min, 3.5 h, 2.1 d."""
    for unit, size in (("d", 86400), ("h", 3600)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds / 60:.0f} min" if seconds >= 120 else f"{seconds:.0f} s"
