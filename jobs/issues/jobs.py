"""Issue sync: keep the issues as the directory has them, every hour."""

from datetime import datetime
from typing import Any
from uuid import uuid4

from sqlalchemy import String, delete
from sqlalchemy.orm import Mapped, mapped_column

from jobs.gateways.directory import (
    LARGEST_PAGE,
    Directory,
    Record,
    id_of,
    moment_of,
    optional_text_of,
    text_of,
)
from jobs.queues import HOUR
from jobs.records import Base, upsert, writing_in_background
from jobs.records.columns import UtcDateTime, utc_now
from jobs.records.sync_run import advance_sync, begin_sync
from jobserver import Every, Queue, Retention, current_run, exponential, job, progress

ISSUE_SYNC = Queue(
    "issue-sync",
    key="ISSUE_SYNC",
    executor="thread",
    global_concurrency=1,
    attempts=3,
    backoff=exponential(5, factor=5),
    retention=Retention(completed_count=10, failed_count=20),
)


class Issue(Base):
    """An issue of the directory; project and assignee are the directory's ids."""

    __tablename__ = "issues"

    id: Mapped[int] = mapped_column(primary_key=True)
    directory_id: Mapped[str] = mapped_column(String(255), unique=True)
    key: Mapped[str] = mapped_column(String(255))
    project: Mapped[str] = mapped_column(String(255), index=True)
    title: Mapped[str] = mapped_column(String(255))
    state: Mapped[str] = mapped_column(String(255))
    priority: Mapped[str | None] = mapped_column(String(255))
    assignee: Mapped[str | None] = mapped_column(String(255))
    changed_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    last_synced: Mapped[datetime] = mapped_column(UtcDateTime)
    sync_run: Mapped[str] = mapped_column(String(64))


@job(queue=ISSUE_SYNC, limit_key="tracker")
def sync() -> dict[str, int]:
    """Sync all issues; returns {"processed": int, "errors": int}."""
    run = current_run()
    done = begin_sync(run.run_id if run else uuid4().hex, kind="issues")
    with Directory() as directory:
        while done.ended_at is None:
            page = directory.page("issues", cursor=done.cursor, limit=LARGEST_PAGE, read=read_issue)
            marks = {"last_synced": utc_now(), "sync_run": done.run}
            with writing_in_background() as session:
                if page.items:
                    rows = [issue | marks for issue in page.items]
                    session.execute(upsert(Issue, key=("directory_id",)), rows)
                done = advance_sync(
                    session,
                    done,
                    cursor=page.cursor,
                    processed=len(page.items) + len(page.refusals),
                    refusals=page.refusals,
                    total=page.total,
                )
                if done.ended_at and done.processed and not done.errors:
                    session.execute(delete(Issue).where(Issue.sync_run != done.run))
            progress(done.percent, message=f"{done.processed} issues")
    return {"processed": done.processed, "errors": done.errors}


ISSUE_SYNC_SCHEDULE = Every(id="issue-sync", seconds=HOUR, job=sync)


def read_issue(record: Record) -> dict[str, Any]:
    """Return the row of an issue; raises ValueError when it makes no sense."""
    return {
        "directory_id": id_of(record),
        "key": text_of(record, "key"),
        "project": text_of(record, "projectId"),
        "title": text_of(record, "title"),
        "state": text_of(record, "state"),
        "priority": optional_text_of(record, "priority"),
        "assignee": optional_text_of(record, "assignee"),
        "changed_at": moment_of(record, "updatedAt"),
    }
