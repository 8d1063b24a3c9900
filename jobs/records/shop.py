"""A shop: who sells, in which currency, and on which plan."""

from datetime import datetime
from enum import StrEnum

from sqlalchemy import String
from sqlalchemy.orm import Mapped, mapped_column

from jobs.records.columns import UtcDateTime, utc_now
from jobs.records.database import Base


class Plan(StrEnum):
    """What a shop pays for; the syncs of premium shops go first."""

    FREE = "free"
    PREMIUM = "premium"


class Shop(Base):
    """A shop. All its prices are in its currency (ISO 4217)."""

    __tablename__ = "shops"

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(255), unique=True)
    currency: Mapped[str] = mapped_column(String(3), default="USD")
    plan: Mapped[str] = mapped_column(String(20), default=Plan.FREE)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)
