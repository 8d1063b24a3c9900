"""A follow: one shop watching another's catalogue, or reselling it with a markup."""

from datetime import datetime
from decimal import Decimal
from enum import StrEnum

from sqlalchemy import CheckConstraint, ForeignKey, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column, relationship

from jobs.records.columns import Amount, UtcDateTime, utc_now
from jobs.records.database import Base
from jobs.records.shop import Shop


class FollowMode(StrEnum):
    """What a follower does with the catalogue it follows."""

    RESELL = "resell"
    MONITOR = "monitor"


class FollowStatus(StrEnum):
    """Whether a follow is looked after; only active ones are synced again."""

    ACTIVE = "active"
    PAUSED = "paused"


class Follow(Base):
    """A follow, with what its last completed sync did.

    The counts stay here when the job that made them has left Redis. `markup_percentage` is added
    to every price that is copied, in per cent, 0 to 500. A user sees those of its own `owner` only.
    """

    __tablename__ = "follows"
    __table_args__ = (
        UniqueConstraint("follower_shop_id", "source_shop_id"),
        CheckConstraint("follower_shop_id <> source_shop_id", name="two_shops"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    follower_shop_id: Mapped[int] = mapped_column(ForeignKey("shops.id"))
    source_shop_id: Mapped[int] = mapped_column(ForeignKey("shops.id"), index=True)
    mode: Mapped[str] = mapped_column(String(20))
    markup_percentage: Mapped[Decimal] = mapped_column(Amount, default=Decimal(0))
    status: Mapped[str] = mapped_column(String(20), default=FollowStatus.ACTIVE)
    owner: Mapped[str | None] = mapped_column(Text, index=True)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)
    updated_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)
    synced_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    synced: Mapped[int | None]
    skipped: Mapped[int | None]
    errors: Mapped[int | None]

    follower: Mapped[Shop] = relationship(foreign_keys=follower_shop_id, viewonly=True)
    source: Mapped[Shop] = relationship(foreign_keys=source_shop_id, viewonly=True)
