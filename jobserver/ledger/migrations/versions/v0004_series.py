"""How many runs ended in each minute, and how long they waited and ran."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the series."""
    op.create_table(
        "jobserver_series",
        sa.Column("minute", sa.Integer, nullable=False),
        sa.Column("queue", sa.Text, nullable=False),
        sa.Column("what", sa.String(16), nullable=False),
        sa.Column("bucket", sa.Integer, nullable=False),
        sa.Column("n", sa.BigInteger, nullable=False),
        sa.Column("ms", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("minute", "queue", "what", "bucket", name="pk_jobserver_series"),
        sqlite_with_rowid=False,
    )


def downgrade() -> None:
    """Drop the series; what is scraped of waits and runs begins anew."""
    op.drop_table("jobserver_series")
