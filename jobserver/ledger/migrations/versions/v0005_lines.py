"""The last lines that each run logged."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the lines."""
    op.create_table(
        "jobserver_line",
        sa.Column("run", sa.String(32), nullable=False),
        sa.Column("number", sa.BigInteger, nullable=False),
        sa.Column("line", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("run", "number", name="pk_jobserver_line"),
        sqlite_with_rowid=False,
    )


def downgrade() -> None:
    """Drop the lines; those of runs that Redis has let go are lost."""
    op.drop_table("jobserver_line")
