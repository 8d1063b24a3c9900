"""The outbox of transactional enqueue."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the outbox."""
    op.create_table(
        "jobserver_outbox",
        sa.Column(
            "position",
            sa.BigInteger().with_variant(sa.Integer, "sqlite"),
            autoincrement=True,
            nullable=False,
        ),
        sa.Column("id", sa.String(64), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("request", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("position", name="pk_jobserver_outbox"),
        sa.UniqueConstraint("id", name="uq_jobserver_outbox_id"),
        sqlite_autoincrement=True,
    )


def downgrade() -> None:
    """Drop the outbox, with what was not pushed yet."""
    op.drop_table("jobserver_outbox")
