"""Create shops, products with their variants, follows, and what follows copied."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

moment = sa.DateTime(timezone=True)
amount = sa.Numeric(18, 4).with_variant(sa.BigInteger(), "sqlite")
json = sa.JSON().with_variant(JSONB(), "postgresql")


def upgrade() -> None:
    """Apply this revision."""
    op.create_table(
        "shops",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("currency", sa.String(3), nullable=False),
        sa.Column("plan", sa.String(20), nullable=False),
        sa.Column("created_at", moment, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_shops"),
        sa.UniqueConstraint("name", name="uq_shops_name"),
    )
    op.create_table(
        "follows",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("follower_shop_id", sa.Integer(), nullable=False),
        sa.Column("source_shop_id", sa.Integer(), nullable=False),
        sa.Column("mode", sa.String(20), nullable=False),
        sa.Column("markup_percentage", amount, nullable=False),
        sa.Column("status", sa.String(20), nullable=False),
        sa.Column("created_at", moment, nullable=False),
        sa.Column("updated_at", moment, nullable=False),
        sa.Column("synced_at", moment),
        sa.Column("synced", sa.Integer()),
        sa.Column("skipped", sa.Integer()),
        sa.Column("errors", sa.Integer()),
        sa.PrimaryKeyConstraint("id", name="pk_follows"),
        sa.ForeignKeyConstraint(
            ["follower_shop_id"], ["shops.id"], name="fk_follows_follower_shop_id_shops"
        ),
        sa.ForeignKeyConstraint(
            ["source_shop_id"], ["shops.id"], name="fk_follows_source_shop_id_shops"
        ),
        sa.UniqueConstraint(
            "follower_shop_id", "source_shop_id", name="uq_follows_follower_shop_id_source_shop_id"
        ),
        sa.CheckConstraint("follower_shop_id <> source_shop_id", name="ck_follows_two_shops"),
    )
    op.create_index("ix_follows_source_shop_id", "follows", ["source_shop_id"])
    op.create_table(
        "products",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("shop_id", sa.Integer(), nullable=False),
        sa.Column("follow_id", sa.Integer()),
        sa.Column("handle", sa.String(255), nullable=False),
        sa.Column("title", sa.String(255), nullable=False),
        sa.Column("description", sa.Text(), nullable=False),
        sa.Column("vendor", sa.String(255), nullable=False),
        sa.Column("product_type", sa.String(255), nullable=False),
        sa.Column("tags", json, nullable=False),
        sa.Column("options", json, nullable=False),
        sa.Column("images", json, nullable=False),
        sa.Column("active", sa.Boolean(), nullable=False),
        sa.Column("created_at", moment, nullable=False),
        sa.Column("updated_at", moment, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_products"),
        sa.ForeignKeyConstraint(["shop_id"], ["shops.id"], name="fk_products_shop_id_shops"),
        sa.ForeignKeyConstraint(
            ["follow_id"], ["follows.id"], name="fk_products_follow_id_follows"
        ),
        sa.UniqueConstraint("shop_id", "handle", name="uq_products_shop_id_handle"),
    )
    op.create_index("ix_products_follow_id", "products", ["follow_id"])
    op.create_table(
        "variants",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("product_id", sa.Integer(), nullable=False),
        sa.Column("option1", sa.String(255), nullable=False),
        sa.Column("option2", sa.String(255), nullable=False),
        sa.Column("option3", sa.String(255), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("sku", sa.String(255)),
        sa.Column("price", amount, nullable=False),
        sa.Column("compare_at_price", amount),
        sa.Column("stock", sa.Integer(), nullable=False),
        sa.Column("image", sa.String(2048)),
        sa.PrimaryKeyConstraint("id", name="pk_variants"),
        sa.ForeignKeyConstraint(
            ["product_id"],
            ["products.id"],
            name="fk_variants_product_id_products",
            ondelete="CASCADE",
        ),
        sa.UniqueConstraint(
            "product_id",
            "option1",
            "option2",
            "option3",
            name="uq_variants_product_id_option1_option2_option3",
        ),
    )
    op.create_table(
        "synced_products",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("follow_id", sa.Integer(), nullable=False),
        sa.Column("source_handle", sa.String(255), nullable=False),
        sa.Column("product_id", sa.Integer()),
        sa.Column("run_id", sa.String(64), nullable=False),
        sa.Column("error", sa.Text()),
        sa.Column("synced_at", moment, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_synced_products"),
        sa.ForeignKeyConstraint(
            ["follow_id"],
            ["follows.id"],
            name="fk_synced_products_follow_id_follows",
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["product_id"],
            ["products.id"],
            name="fk_synced_products_product_id_products",
            ondelete="SET NULL",
        ),
        sa.UniqueConstraint(
            "follow_id", "source_handle", name="uq_synced_products_follow_id_source_handle"
        ),
    )
    op.create_index("ix_synced_products_product_id", "synced_products", ["product_id"])


def downgrade() -> None:
    """Take this revision back."""
    for table in ("synced_products", "variants", "products", "follows", "shops"):
        op.drop_table(table)
