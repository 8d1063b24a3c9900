"""A user, as the directory last had them."""

from datetime import datetime

from sqlalchemy import String, Text
from sqlalchemy.orm import Mapped, mapped_column

from jobs.records.columns import UtcDateTime, utc_now
from jobs.records.database import Base


class User(Base):
    """A user of the directory; one that is gone from it stays, inactive.

    `last_synced` is when the user was last read well, `updated_at` when the row was last written,
    `changed_at` when the directory says that the user last changed. `sync_error` is why the last
    reading was refused; all else is then what it was before, and nothing for a user who was never
    read well. `sync_run` names the sync that last met the user, `etag` the answer it came with.
    """

    __tablename__ = "users"

    id: Mapped[int] = mapped_column(primary_key=True)
    directory_id: Mapped[str] = mapped_column(String(255), unique=True)
    username: Mapped[str | None] = mapped_column(String(255), index=True)
    email: Mapped[str | None] = mapped_column(String(255), index=True)
    first_name: Mapped[str | None] = mapped_column(String(255))
    last_name: Mapped[str | None] = mapped_column(String(255))
    title: Mapped[str | None] = mapped_column(String(255))
    department: Mapped[str | None] = mapped_column(String(255))
    active: Mapped[bool] = mapped_column(default=False)
    changed_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    last_synced: Mapped[datetime | None] = mapped_column(UtcDateTime)
    updated_at: Mapped[datetime] = mapped_column(UtcDateTime, default=utc_now)
    sync_error: Mapped[str | None] = mapped_column(Text)
    sync_run: Mapped[str] = mapped_column(String(64), default="")
    etag: Mapped[str | None] = mapped_column(Text)
