"""Project sync: keep the projects as the directory has them, every hour."""

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

PROJECT_SYNC = Queue(
    "project-sync",
    key="PROJECT_SYNC",
    executor="thread",
    global_concurrency=1,
    attempts=3,
    backoff=exponential(5, factor=5),
    retention=Retention(completed_count=10, failed_count=20),
)


class Project(Base):
    """A project of the directory; `owner` is the directory's id of a user."""

    __tablename__ = "projects"

    id: Mapped[int] = mapped_column(primary_key=True)
    directory_id: Mapped[str] = mapped_column(String(255), unique=True)
    key: Mapped[str] = mapped_column(String(255))
    name: Mapped[str] = mapped_column(String(255))
    state: Mapped[str] = mapped_column(String(255))
    owner: Mapped[str | None] = mapped_column(String(255))
    changed_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    last_synced: Mapped[datetime] = mapped_column(UtcDateTime)
    sync_run: Mapped[str] = mapped_column(String(64))


@job(queue=PROJECT_SYNC, limit_key="tracker")
def sync() -> dict[str, int]:
    """Sync all projects; returns {"processed": int, "errors": int}."""
    run = current_run()
    done = begin_sync(run.run_id if run else uuid4().hex, kind="projects")
    with Directory() as directory:
        while done.ended_at is None:
            page = directory.page(
                "projects", cursor=done.cursor, limit=LARGEST_PAGE, read=read_project
            )
            marks = {"last_synced": utc_now(), "sync_run": done.run}
            with writing_in_background() as session:
                if page.items:
                    rows = [project | marks for project in page.items]
                    session.execute(upsert(Project, key=("directory_id",)), rows)
                done = advance_sync(
                    session,
                    done,
                    cursor=page.cursor,
                    processed=len(page.items) + len(page.refusals),
                    refusals=page.refusals,
                    total=page.total,
                )
                if done.ended_at and done.processed and not done.errors:
                    session.execute(delete(Project).where(Project.sync_run != done.run))
            progress(done.percent, message=f"{done.processed} projects")
    return {"processed": done.processed, "errors": done.errors}


PROJECT_SYNC_SCHEDULE = Every(id="project-sync", seconds=HOUR, job=sync)


def read_project(record: Record) -> dict[str, Any]:
    """Return the row of a project; raises ValueError when it makes no sense."""
    return {
        "directory_id": id_of(record),
        "key": text_of(record, "key"),
        "name": text_of(record, "name"),
        "state": text_of(record, "state"),
        "owner": optional_text_of(record, "owner"),
        "changed_at": moment_of(record, "updatedAt"),
    }
