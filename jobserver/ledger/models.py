"""The engine's tables, on a MetaData of their own and usable through any session of the host."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime

from sqlalchemy import (
    BigInteger,
    Column,
    DateTime,
    Dialect,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    text,
)
from sqlalchemy.types import TypeDecorator

PREFIX = "jobserver_"
VERSION_TABLE = f"{PREFIX}version"
MOST_INDEXED = 2500  # bytes of a text: an entry of PostgreSQL's indexes has 2,704 at most

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)


class UtcDateTime(TypeDecorator[datetime]):
    """An aware UTC datetime, also on SQLite, which knows no time zones."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Store UTC; raises ValueError for a naive datetime."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"{value!r} has no time zone; use an aware datetime")
        value = value.astimezone(UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Return aware UTC."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


# `position` is the order of enqueueing; `id` is the call id, which makes a second push harmless.
outbox = Table(
    f"{PREFIX}outbox",
    metadata,
    Column(
        "position",
        BigInteger().with_variant(Integer, "sqlite"),
        primary_key=True,
        autoincrement=True,
    ),
    Column("id", String(64), nullable=False, unique=True),
    Column("created_at", UtcDateTime, nullable=False),
    Column("request", Text, nullable=False),
    sqlite_autoincrement=True,
)

# A secret is known by its hash alone. A name is given once for ever: actions tell who by it.
tokens = Table(
    f"{PREFIX}token",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("digest", String(64), nullable=False, unique=True),
    Column("role", String(16), nullable=False),
    Column("owner", Text),
    Column("created_at", UtcDateTime, nullable=False),
    Column("expires_at", UtcDateTime),
    Column("revoked_at", UtcDateTime),
)

# What operators did. Rows are only ever added; `position` is their order.
actions = Table(
    f"{PREFIX}action",
    metadata,
    Column(
        "position",
        BigInteger().with_variant(Integer, "sqlite"),
        primary_key=True,
        autoincrement=True,
    ),
    Column("at", UtcDateTime, nullable=False),
    Column("principal", Text, nullable=False),
    Column("role", String(16)),
    Column("action", String(64), nullable=False),
    Column("target", Text, nullable=False),
    Column("outcome", String(16), nullable=False),
    Column("detail", Text, nullable=False),
    Column("request_id", Text, nullable=False),
    Column("remote_address", Text, nullable=False),
    sqlite_autoincrement=True,
)

# Every run, by its id, which sorts by when it was enqueued: pages of a search are in that order.
# `started_at`, `run_ms` and `wait_ms` (from when it was due to when it began) are of the last
# attempt. `state` is waiting, delayed, active, completed, failed, canceled or purged (somebody
# removed the job before it ended); `purged_at` is when somebody removed it at all. What retention
# removes from Redis stays here as it ended. A failed run is a dead letter until `settled_at`:
# somebody discarded or removed it, or its job was enqueued anew.
runs = Table(
    f"{PREFIX}run",
    metadata,
    Column("run", String(32), primary_key=True),
    Column("job", Text, nullable=False),
    Column("type", Text, nullable=False),
    Column("queue", Text, nullable=False),
    Column("priority", String(8), nullable=False),
    Column("key", Text),
    Column("owner", Text),
    Column("organization", Text),
    Column("trace", Text),
    Column("state", String(16), nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("enqueued_at", UtcDateTime, nullable=False),
    Column("due_at", UtcDateTime),
    Column("started_at", UtcDateTime),
    Column("ended_at", UtcDateTime),
    Column("wait_ms", BigInteger),
    Column("run_ms", BigInteger),
    Column("worker", Text),
    Column("host", Text),
    Column("result", Text),
    Column("error_type", Text),
    Column("error_message", Text),
    Column("reason", Text),
    Column("fingerprint", String(64)),
    Column("payload", Text),
    Column("purged_at", UtcDateTime),
    Column("settled_at", UtcDateTime),
)
# Each is sorted as pages are. What few runs have is in partial ones, which cost the others nothing;
# a query has to repeat their condition word for word.
NOT_COMPLETED = text("state <> 'completed'")
DEAD = text("state = 'failed' AND settled_at IS NULL")
for _name in ("job", "type", "queue"):
    Index(None, runs.c[_name], runs.c.run)
for _name in ("key", "owner", "organization", "trace", "fingerprint"):
    _is_there = text(f"{_name} IS NOT NULL")  # what `=` implies, to both databases
    Index(None, runs.c[_name], runs.c.run, postgresql_where=_is_there, sqlite_where=_is_there)
for _names in (("state",), ("state", "type"), ("state", "queue")):
    _columns = [runs.c[_name] for _name in (*_names, "run")]
    Index(None, *_columns, postgresql_where=NOT_COMPLETED, sqlite_where=NOT_COMPLETED)
# Groups of dead letters are read from the index alone: SQLite reads the condition's columns, too.
for _name, _dead in (
    ("fingerprint", ("fingerprint", "run", "ended_at", "state", "settled_at")),
    ("job", ("job",)),
):
    _columns = [runs.c[_column] for _column in _dead]
    Index(f"ix_{PREFIX}run_dead_{_name}", *_columns, postgresql_where=DEAD, sqlite_where=DEAD)

# Every attempt that was spent, but for a first one that completed: the run says all of that.
# `outcome` is completed, failed, retried, lost or canceled; `peak_rss` in bytes.
attempts = Table(
    f"{PREFIX}attempt",
    metadata,
    Column("run", String(32), primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("started_at", UtcDateTime),
    Column("ended_at", UtcDateTime, nullable=False),
    Column("worker", Text),
    Column("outcome", String(16), nullable=False),
    Column("reason", Text),
    Column("error_type", Text),
    Column("error_message", Text),
    Column("traceback", Text),
    Column("exit_reason", Text),
    Column("peak_rss", BigInteger),
)

# The one row that says up to which event of the stream runs and attempts tell, and how many events
# that were. It moves in the transaction that writes them.
position = Table(
    f"{PREFIX}position",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("position", String(41), nullable=False),
    Column("events", BigInteger, nullable=False),
    Column("recorded_at", UtcDateTime, nullable=False),
)

# How many runs ended in a minute (since the epoch; 0: ever) and how long they waited or ran, by
# bucket: `what` is wait, completed or failed, `ms` the time of all of the row's together.
series = Table(
    f"{PREFIX}series",
    metadata,
    Column("minute", Integer, primary_key=True, autoincrement=False),
    Column("queue", Text, primary_key=True),
    Column("what", String(16), primary_key=True),
    Column("bucket", Integer, primary_key=True, autoincrement=False),
    Column("n", BigInteger, nullable=False),
    Column("ms", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)


# The last lines that a run logged, as JSON, numbered from 1 over all its attempts.
lines = Table(
    f"{PREFIX}line",
    metadata,
    Column("run", String(32), primary_key=True),
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("line", Text, nullable=False),
    sqlite_with_rowid=False,
)


def indexed(text: str) -> str:
    """Return a text as an indexed column holds it: a hash takes the place of what is too much."""
    data = text.encode()
    if len(data) <= MOST_INDEXED:
        return text
    kept = data[: MOST_INDEXED - 70].decode(errors="ignore")
    return f"{kept}--{hashlib.sha256(data).hexdigest()}"


def owns_table(name: str | None) -> bool:
    """Return whether a table is the engine's, for `include_name` in the host's own Alembic env.py.

    Without it the host's autogenerate proposes to drop the engine's tables.
    """
    return name is not None and name.startswith(PREFIX)
