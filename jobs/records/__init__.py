"""The SQL models that systems share, one file per noun, and the database they live in."""

from jobs.records.database import Base, db, init_app, upsert, writing, writing_in_background
from jobs.records.follow import Follow, FollowMode, FollowStatus
from jobs.records.product import Product
from jobs.records.shop import Plan, Shop
from jobs.records.sync_run import SyncRun
from jobs.records.synced_product import SyncedProduct
from jobs.records.user import User
from jobs.records.variant import Variant

__all__ = [
    "Base",
    "Follow",
    "FollowMode",
    "FollowStatus",
    "Plan",
    "Product",
    "Shop",
    "SyncRun",
    "SyncedProduct",
    "User",
    "Variant",
    "db",
    "init_app",
    "upsert",
    "writing",
    "writing_in_background",
]
