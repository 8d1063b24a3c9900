"""What a follow did with one product of its source: the copy it keeps, or why there is none."""

from datetime import datetime

from sqlalchemy import ForeignKey, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from jobs.records.columns import UtcDateTime
from jobs.records.database import Base


class SyncedProduct(Base):
    """One product of the source, by its handle, which outlives the source's row.

    `run_id` names the run that last changed the copy; `error` is why the last run could not, and
    the copy, if there is one, is then what it was before.
    """

    __tablename__ = "synced_products"
    __table_args__ = (UniqueConstraint("follow_id", "source_handle"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    follow_id: Mapped[int] = mapped_column(ForeignKey("follows.id", ondelete="CASCADE"))
    source_handle: Mapped[str] = mapped_column(String(255))
    product_id: Mapped[int | None] = mapped_column(
        ForeignKey("products.id", ondelete="SET NULL"), index=True
    )
    run_id: Mapped[str] = mapped_column(String(64), default="")
    error: Mapped[str | None] = mapped_column(Text)
    synced_at: Mapped[datetime] = mapped_column(UtcDateTime)
