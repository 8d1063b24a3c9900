"""Create users, projects and issues, and how far their syncs are."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

moment = sa.DateTime(timezone=True)
json = sa.JSON().with_variant(JSONB(), "postgresql")


def upgrade() -> None:
    """Apply this revision."""
    op.create_table(
        "users",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("directory_id", sa.String(255), nullable=False),
        sa.Column("username", sa.String(255)),
        sa.Column("email", sa.String(255)),
        sa.Column("first_name", sa.String(255)),
        sa.Column("last_name", sa.String(255)),
        sa.Column("title", sa.String(255)),
        sa.Column("department", sa.String(255)),
        sa.Column("active", sa.Boolean(), nullable=False),
        sa.Column("changed_at", moment),
        sa.Column("last_synced", moment),
        sa.Column("updated_at", moment, nullable=False),
        sa.Column("sync_error", sa.Text()),
        sa.Column("sync_run", sa.String(64), nullable=False),
        sa.Column("etag", sa.Text()),
        sa.PrimaryKeyConstraint("id", name="pk_users"),
        sa.UniqueConstraint("directory_id", name="uq_users_directory_id"),
    )
    op.create_index("ix_users_username", "users", ["username"])
    op.create_index("ix_users_email", "users", ["email"])
    op.create_table(
        "sync_runs",
        sa.Column("run", sa.String(64), nullable=False),
        sa.Column("kind", sa.String(64), nullable=False),
        sa.Column("synced_before", moment),
        sa.Column("total", sa.Integer()),
        sa.Column("cursor", sa.Text(), nullable=False),
        sa.Column("batches", sa.Integer(), nullable=False),
        sa.Column("processed", sa.Integer(), nullable=False),
        sa.Column("errors", sa.Integer(), nullable=False),
        sa.Column("nameless", sa.Integer(), nullable=False),
        sa.Column("refusals", json, nullable=False),
        sa.Column("started_at", moment, nullable=False),
        sa.Column("ended_at", moment),
        sa.PrimaryKeyConstraint("run", name="pk_sync_runs"),
    )
    op.create_index("ix_sync_runs_started_at", "sync_runs", ["started_at"])
    op.create_table(
        "projects",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("directory_id", sa.String(255), nullable=False),
        sa.Column("key", sa.String(255), nullable=False),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("state", sa.String(255), nullable=False),
        sa.Column("owner", sa.String(255)),
        sa.Column("changed_at", moment),
        sa.Column("last_synced", moment, nullable=False),
        sa.Column("sync_run", sa.String(64), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_projects"),
        sa.UniqueConstraint("directory_id", name="uq_projects_directory_id"),
    )
    op.create_table(
        "issues",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("directory_id", sa.String(255), nullable=False),
        sa.Column("key", sa.String(255), nullable=False),
        sa.Column("project", sa.String(255), nullable=False),
        sa.Column("title", sa.String(255), nullable=False),
        sa.Column("state", sa.String(255), nullable=False),
        sa.Column("priority", sa.String(255)),
        sa.Column("assignee", sa.String(255)),
        sa.Column("changed_at", moment),
        sa.Column("last_synced", moment, nullable=False),
        sa.Column("sync_run", sa.String(64), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_issues"),
        sa.UniqueConstraint("directory_id", name="uq_issues_directory_id"),
    )
    op.create_index("ix_issues_project", "issues", ["project"])


def downgrade() -> None:
    """Take this revision back."""
    for table in ("issues", "projects", "sync_runs", "users"):
        op.drop_table(table)
