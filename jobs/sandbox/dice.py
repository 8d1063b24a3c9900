"""Made-up data: the same seed and name always throw the same."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from typing import TypeVar

T = TypeVar("T")

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
SPAN = 180 * 86400  # seconds


class Dice:
    """A few throws for one record."""

    __slots__ = ("_rest",)

    def __init__(self, seed: int, name: str) -> None:
        self._rest = int.from_bytes(blake2b(f"{seed}:{name}".encode(), digest_size=32).digest())

    def below(self, sides: int) -> int:
        """Return a number from 0 to `sides` - 1."""
        self._rest, thrown = divmod(self._rest, sides)
        return thrown

    def one_of(self, values: Sequence[T]) -> T:
        """Return one of the values."""
        return values[self.below(len(values))]

    def moment(self) -> str:
        """Return a time in the first half of 2026, ISO 8601 in UTC."""
        return f"{EPOCH + timedelta(seconds=self.below(SPAN)):%Y-%m-%dT%H:%M:%SZ}"
