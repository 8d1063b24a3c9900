"""A variant: one thing of a product that can be bought, with its price and stock."""

from decimal import Decimal

from sqlalchemy import ForeignKey, String, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from jobs.records.columns import Amount
from jobs.records.database import Base


class Variant(Base):
    """A variant; what tells it from others is its product and the values of its options.

    Option values that a product has no use for are empty strings: NULLs would not be unique.
    Prices are in the currency of the product's shop; stock below zero is oversold.
    """

    __tablename__ = "variants"
    __table_args__ = (UniqueConstraint("product_id", "option1", "option2", "option3"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    product_id: Mapped[int] = mapped_column(ForeignKey("products.id", ondelete="CASCADE"))
    option1: Mapped[str] = mapped_column(String(255), default="")
    option2: Mapped[str] = mapped_column(String(255), default="")
    option3: Mapped[str] = mapped_column(String(255), default="")
    position: Mapped[int] = mapped_column(default=1)
    sku: Mapped[str | None] = mapped_column(String(255))
    price: Mapped[Decimal] = mapped_column(Amount)
    compare_at_price: Mapped[Decimal | None] = mapped_column(Amount)
    stock: Mapped[int] = mapped_column(default=0)
    image: Mapped[str | None] = mapped_column(String(2048))
