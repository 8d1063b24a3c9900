"""Making the application's users what the directory says of them.

A batch is written in one transaction, together with how far the sync is: one that is killed and
tried again goes on behind its last finished batch, with the counts it had.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import blake2b
from typing import Any, Literal
from uuid import uuid4

from sqlalchemy import ColumnElement, exists, func, or_, select, update
from sqlalchemy.orm import Session

from jobs.gateways.directory import Directory, DirectoryUser
from jobs.gateways.errors import VendorUnavailable
from jobs.records import User, db, upsert, writing_in_background
from jobs.records.columns import utc_now
from jobs.records.sync_run import Refusal, Sync, advance_sync, begin_sync

SyncType = Literal["incremental", "full"]

logger = logging.getLogger(__name__)

Report = Callable[[Sync], object]
"""Called with how far the sync is, after each batch; never inside a transaction."""

_KEPT_OF_A_REFUSED = (
    *("username", "email", "first_name", "last_name", "title", "department"),
    *("active", "changed_at", "last_synced"),
)


@dataclass(frozen=True, kw_only=True)
class _Batch:
    """What the directory said of some users: who they are, nonsense, nothing new, that they left.

    `unchanged` and `gone` are ids of the directory's; `cursor` is where the next batch begins, None
    behind the last.
    """

    users: Sequence[DirectoryUser] = ()
    refusals: Sequence[Refusal] = ()
    unchanged: Sequence[str] = ()
    gone: Sequence[str] = ()
    etag: str | None = None
    cursor: str | None
    total: int | None = None


def sync_users(
    sync_type: SyncType,
    *,
    batch_size: int,
    every: timedelta,
    run: str | None = None,
    scheduled_at: datetime | None = None,
    report: Report = lambda sync: None,
) -> Sync:
    """Sync users and return what it took; `run` names what the attempts of one sync share.

    full reads the whole directory: adds, updates, deactivates who is gone. incremental reads those
    again that are `due_before` now, or at the tick of `scheduled_at`. Raises what Directory does,
    and SyncOvertaken.
    """
    is_full = sync_type == "full"
    sync = begin_sync(
        run or uuid4().hex,
        kind=f"users {sync_type}",
        synced_before=None if is_full else due_before(every, tick=scheduled_at),
    )
    if sync.ended_at is not None:
        return sync  # the attempt before died when all was written
    with Directory() as directory:
        read = _everybody if is_full else _due
        for number, batch in enumerate(read(directory, sync, batch_size)):
            if number == 0:
                logger.info("Users to sync (totalUsers: %s)", batch.total)
            logger.debug(
                "Processing user batch (batchSize: %d, skip: %d)", batch_size, sync.processed
            )
            sync = _write(sync, batch, sweeps=is_full and batch.cursor is None)
            _log(batch)
            report(sync)
    return sync


def due_before(every: timedelta, *, tick: datetime | None = None) -> datetime:
    """Return when users must have been synced last, or before, to be due now, or at a tick.

    A tick at 12:00:00 syncs a user at 12:00:05, who by 12:20:00 has been synced for 20 minutes but
    five seconds, and would be left out of every second tick. So a tick takes all who were synced
    nearer to an earlier one than to itself: half of `every` before it.
    """
    return utc_now() - every if tick is None else tick - every / 2


def _everybody(directory: Directory, sync: Sync, size: int) -> Iterator[_Batch]:
    cursor: str | None = sync.cursor
    while cursor is not None:
        page = directory.users(cursor=cursor, limit=size)
        cursor = page.cursor
        yield _Batch(users=page.items, refusals=page.refusals, cursor=cursor, total=page.total)


def _due(directory: Directory, sync: Sync, size: int) -> Iterator[_Batch]:
    is_due = or_(User.last_synced.is_(None), User.last_synced <= sync.synced_before)
    total = sync.total
    if total is None:
        total = db.session.scalar(select(func.count()).where(is_due)) or 0
    cursor: str | None = sync.cursor or "0"
    while cursor is not None:
        rows = db.session.execute(
            select(User.id, User.directory_id, User.etag)
            .where(User.id > int(cursor), is_due)
            .order_by(User.id)
            .limit(size)
        ).all()
        db.session.rollback()
        cursor = str(rows[-1].id) if len(rows) == size else None
        yield _asked(
            directory,
            [row.directory_id for row in rows],
            kept={row.etag for row in rows},
            place={"cursor": cursor, "total": total},
        )


def _asked(
    directory: Directory, ids: Sequence[str], *, kept: set[str | None], place: dict[str, Any]
) -> _Batch:
    """Ask for users; `kept` are the validators of the answers that they came with last."""
    if not ids:
        return _Batch(**place)
    # An ETag is good for the very same question only.
    question = blake2b(",".join(ids).encode(), digest_size=8).hexdigest()
    known, _, etag = (kept.pop() or "" if len(kept) == 1 else "").partition(" ")
    page = directory.users_of(ids, etag=etag if known == question else None)
    if page is None:
        return _Batch(unchanged=ids, **place)
    wanted = set(ids)
    users = [user for user in page.items if user.id in wanted]
    refusals = [one for one in page.refusals if one.id is None or one.id in wanted]
    met = {user.id for user in users} | {one.id for one in refusals}
    return _Batch(
        users=users,
        refusals=refusals,
        # Who is missing may be the record that has no id.
        gone=[] if None in met else [one for one in ids if one not in met],
        etag=f"{question} {page.etag}" if page.etag else None,
        **place,
    )


def _write(sync: Sync, batch: _Batch, *, sweeps: bool) -> Sync:
    with writing_in_background() as session:
        marks = {"sync_run": sync.run, "updated_at": utc_now()}
        synced = marks | {"last_synced": marks["updated_at"]}
        if batch.users:
            session.execute(
                upsert(User, key=("directory_id",)),
                [_row(user) | synced | {"etag": batch.etag} for user in batch.users],
            )
        named = [one for one in batch.refusals if one.id is not None]
        if named:
            session.execute(
                upsert(User, key=("directory_id",), keep=_KEPT_OF_A_REFUSED),
                [
                    {"directory_id": one.id, "sync_error": one.reason, "etag": None} | marks
                    for one in named
                ],
            )
        if batch.unchanged:
            _update(session, User.directory_id.in_(batch.unchanged), synced)
        left = synced | {"active": False, "sync_error": None, "etag": None}
        gone = 0
        if batch.gone:
            gone = _update(session, User.directory_id.in_(batch.gone), left)
        if sweeps:
            gone = _deactivate_unmet(session, sync, batch, left)
        size = len(batch.users) + len(batch.refusals) + len(batch.unchanged) + gone
        return advance_sync(
            session,
            sync,
            cursor=batch.cursor,
            processed=size,
            refusals=batch.refusals,
            total=batch.total,
        )


def _deactivate_unmet(session: Session, sync: Sync, batch: _Batch, left: dict[str, Any]) -> int:
    """Deactivate the users that a full sync has not met; return how many."""
    if sync.nameless or any(one.id is None for one in batch.refusals):
        logger.warning("Nobody is deactivated: the directory has users without an id")
        return 0
    is_unmet = (User.active) & (User.sync_run != sync.run)
    if not sync.processed and not batch.users and session.scalar(select(exists().where(is_unmet))):
        raise VendorUnavailable("The directory has not a single user: nobody is deactivated")
    return _update(session, is_unmet, left)


def _update(session: Session, which: ColumnElement[bool], values: dict[str, Any]) -> int:
    return session.connection().execute(update(User).where(which).values(values)).rowcount


def _row(user: DirectoryUser) -> dict[str, Any]:
    return {
        "directory_id": user.id,
        "username": user.username,
        "email": user.email,
        "first_name": user.first_name,
        "last_name": user.last_name,
        "title": user.title,
        "department": user.department,
        "active": user.active,
        "changed_at": user.changed_at,
        "sync_error": None,
    }


def _log(batch: _Batch) -> None:
    for refusal in batch.refusals:
        logger.warning("User not synced (userId: %s): %s", refusal.id, refusal.reason)
    if logger.isEnabledFor(logging.DEBUG):
        for user in batch.users:
            logger.debug(
                "User synced successfully (userId: %s, username: %s)", user.id, user.username
            )
