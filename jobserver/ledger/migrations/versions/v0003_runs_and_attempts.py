"""Every run and its attempts, and how far the events are recorded."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the three tables."""
    time = sa.DateTime(timezone=True)
    op.create_table(
        "jobserver_run",
        sa.Column("run", sa.String(32), nullable=False),
        sa.Column("job", sa.Text, nullable=False),
        sa.Column("type", sa.Text, nullable=False),
        sa.Column("queue", sa.Text, nullable=False),
        sa.Column("priority", sa.String(8), nullable=False),
        sa.Column("key", sa.Text),
        sa.Column("owner", sa.Text),
        sa.Column("organization", sa.Text),
        sa.Column("trace", sa.Text),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("enqueued_at", time, nullable=False),
        sa.Column("due_at", time),
        sa.Column("started_at", time),
        sa.Column("ended_at", time),
        sa.Column("wait_ms", sa.BigInteger),
        sa.Column("run_ms", sa.BigInteger),
        sa.Column("worker", sa.Text),
        sa.Column("host", sa.Text),
        sa.Column("result", sa.Text),
        sa.Column("error_type", sa.Text),
        sa.Column("error_message", sa.Text),
        sa.Column("reason", sa.Text),
        sa.Column("fingerprint", sa.String(64)),
        sa.Column("payload", sa.Text),
        sa.Column("purged_at", time),
        sa.Column("settled_at", time),
        sa.PrimaryKeyConstraint("run", name="pk_jobserver_run"),
    )
    for name in ("job", "type", "queue"):
        op.create_index(f"ix_jobserver_run_{name}_run", "jobserver_run", [name, "run"])
    for name in ("key", "owner", "organization", "trace", "fingerprint"):
        is_there = sa.text(f"{name} IS NOT NULL")
        op.create_index(
            f"ix_jobserver_run_{name}_run",
            "jobserver_run",
            [name, "run"],
            postgresql_where=is_there,
            sqlite_where=is_there,
        )
    is_other = sa.text("state <> 'completed'")
    for names in (["state"], ["state", "type"], ["state", "queue"]):
        op.create_index(
            f"ix_jobserver_run_{'_'.join(names)}_run",
            "jobserver_run",
            [*names, "run"],
            postgresql_where=is_other,
            sqlite_where=is_other,
        )
    is_dead = sa.text("state = 'failed' AND settled_at IS NULL")
    for name, columns in (
        ("fingerprint", ["fingerprint", "run", "ended_at", "state", "settled_at"]),
        ("job", ["job"]),
    ):
        op.create_index(
            f"ix_jobserver_run_dead_{name}",
            "jobserver_run",
            columns,
            postgresql_where=is_dead,
            sqlite_where=is_dead,
        )
    op.create_table(
        "jobserver_attempt",
        sa.Column("run", sa.String(32), nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("started_at", time),
        sa.Column("ended_at", time, nullable=False),
        sa.Column("worker", sa.Text),
        sa.Column("outcome", sa.String(16), nullable=False),
        sa.Column("reason", sa.Text),
        sa.Column("error_type", sa.Text),
        sa.Column("error_message", sa.Text),
        sa.Column("traceback", sa.Text),
        sa.Column("exit_reason", sa.Text),
        sa.Column("peak_rss", sa.BigInteger),
        sa.PrimaryKeyConstraint("run", "number", name="pk_jobserver_attempt"),
    )
    op.create_table(
        "jobserver_position",
        sa.Column("id", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("position", sa.String(41), nullable=False),
        sa.Column("events", sa.BigInteger, nullable=False),
        sa.Column("recorded_at", time, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_jobserver_position"),
    )


def downgrade() -> None:
    """Drop them, with the record of all runs."""
    for name in ("position", "attempt", "run"):
        op.drop_table(f"jobserver_{name}")
