"""Column types that mean the same on SQLite and on PostgreSQL."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import JSON, BigInteger, DateTime, Dialect, Numeric
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.types import TypeDecorator, TypeEngine

PLACES = 4
"""Decimal places an amount of money is kept with; no currency in circulation has more."""

LARGEST_INTEGER = 2**31 - 1
"""What an Integer column holds at most; ids are such."""

LARGEST_AMOUNT = Decimal(10) ** (18 - PLACES)
"""An amount is smaller than this, in units of its currency."""

Json = JSON().with_variant(JSONB(), "postgresql")


class Amount(TypeDecorator[Decimal]):
    """An exact amount of money: NUMERIC on PostgreSQL, whole ten-thousandths on SQLite.

    SQLite has no decimal type; its REAL would lose cents. Raises ValueError for an amount that
    does not fit.
    """

    impl = Numeric(18, PLACES)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """Return the column type of this database."""
        if dialect.name == "sqlite":
            return dialect.type_descriptor(BigInteger())
        return dialect.type_descriptor(Numeric(18, PLACES))

    def process_bind_param(self, value: Decimal | None, dialect: Dialect) -> Decimal | int | None:
        """Return `value` as this database keeps it."""
        if value is None:
            return None
        if not value.is_finite() or abs(value) >= LARGEST_AMOUNT:
            raise ValueError(f"{value} is no amount below {LARGEST_AMOUNT:,}")
        scaled = value.scaleb(PLACES)
        if scaled != scaled.to_integral_value():
            raise ValueError(f"{value} has more than {PLACES} decimal places")
        return int(scaled) if dialect.name == "sqlite" else value

    def process_result_value(self, value: Any, dialect: Dialect) -> Decimal | None:
        """Return what this database keeps as a decimal, without zeros behind its last digit."""
        if value is None:
            return None
        number = Decimal(value).scaleb(-PLACES) if dialect.name == "sqlite" else Decimal(value)
        return number.quantize(Decimal(1)) if number == number.to_integral() else number.normalize()


class UtcDateTime(TypeDecorator[datetime]):
    """A moment: aware, in UTC. SQLite drops the offset, so it is put back on the way out."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Return `value` in UTC; raises ValueError for a naive one."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"{value!r} has no time zone")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Return the moment, aware."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def utc_now() -> datetime:
    """Return the current time, aware, in UTC."""
    return datetime.now(UTC)
