"""Say whose a follow is, so that a user sees only the own ones; those made before are nobody's."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply this revision."""
    op.add_column("follows", sa.Column("owner", sa.Text()))
    op.create_index("ix_follows_owner", "follows", ["owner"])


def downgrade() -> None:
    """Take this revision back."""
    op.drop_index("ix_follows_owner", "follows")
    op.drop_column("follows", "owner")
