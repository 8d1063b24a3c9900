"""A product in a shop's catalogue: the shop's own, or a copy that a follow brought."""

from datetime import datetime
from typing import Any

from sqlalchemy import ForeignKey, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column, relationship

from jobs.records.columns import Json, UtcDateTime, utc_now
from jobs.records.database import Base
from jobs.records.variant import Variant


class Product(Base):
    """A product; what tells it from others is its shop and its handle.

    `follow_id` is None for the shop's own products; only those are copied to followers, so that
    two shops which follow each other don't copy each other's copies for ever.
    `images` is a list of {"src": str, "alt": str}, in order; `options` the names of its options.
    """

    __tablename__ = "products"
    __table_args__ = (UniqueConstraint("shop_id", "handle"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    shop_id: Mapped[int] = mapped_column(ForeignKey("shops.id"))
    follow_id: Mapped[int | None] = mapped_column(ForeignKey("follows.id"), index=True)
    handle: Mapped[str] = mapped_column(String(255))
    title: Mapped[str] = mapped_column(String(255))
    description: Mapped[str] = mapped_column(Text, default="")
    vendor: Mapped[str] = mapped_column(String(255), default="")
    product_type: Mapped[str] = mapped_column(String(255), default="")
    tags: Mapped[list[str]] = mapped_column(Json, default=list)
    options: Mapped[list[str]] = mapped_column(Json, default=list)
    images: Mapped[list[dict[str, Any]]] = mapped_column(Json, default=list)
    active: Mapped[bool] = mapped_column(default=True)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)
    updated_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)

    variants: Mapped[list[Variant]] = relationship(order_by=Variant.position, viewonly=True)
