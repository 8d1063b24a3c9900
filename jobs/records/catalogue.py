"""Whole products as values, and putting many of them into a shop's catalogue at once."""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from jobs.records.batches import batched
from jobs.records.columns import utc_now
from jobs.records.database import upsert
from jobs.records.product import Product
from jobs.records.shop import Shop
from jobs.records.variant import Variant

_VARIANT_KEY = ("product_id", "option1", "option2", "option3")


@dataclass(frozen=True, kw_only=True)
class VariantContent:
    """What a variant is, apart from where it is kept; see Variant for the meanings."""

    options: tuple[str, str, str]
    price: Decimal
    compare_at_price: Decimal | None = None
    sku: str | None = None
    stock: int = 0
    image: str | None = None


@dataclass(frozen=True, kw_only=True)
class ProductContent:
    """What a product is, apart from where it is kept; `images` are (address, text) in order."""

    handle: str
    title: str
    description: str = ""
    vendor: str = ""
    product_type: str = ""
    tags: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    images: tuple[tuple[str, str], ...] = ()
    active: bool = True
    variants: tuple[VariantContent, ...] = ()


def lock_shop(session: Session, shop_id: int) -> None:
    """Make other writers of this shop's catalogue wait for the end of the transaction.

    SQLite lets one writer in anyway. The lock leaves rows that point to the shop insertable.
    """
    session.execute(select(Shop.id).where(Shop.id == shop_id).with_for_update(key_share=True))


def load_products(session: Session, ids: Collection[int]) -> dict[int, ProductContent]:
    """Return the products with these ids, by id."""
    variants = defaultdict(list)
    rows = select(Variant.__table__).where(Variant.product_id.in_(ids))
    for row in session.execute(rows.order_by(Variant.product_id, Variant.position, Variant.id)):
        variants[row.product_id].append(
            VariantContent(
                options=(row.option1, row.option2, row.option3),
                price=row.price,
                compare_at_price=row.compare_at_price,
                sku=row.sku,
                stock=row.stock,
                image=row.image,
            )
        )
    return {
        row.id: ProductContent(
            handle=row.handle,
            title=row.title,
            description=row.description,
            vendor=row.vendor,
            product_type=row.product_type,
            tags=tuple(row.tags),
            options=tuple(row.options),
            images=tuple((image["src"], image["alt"]) for image in row.images),
            active=row.active,
            variants=tuple(variants[row.id]),
        )
        for row in session.execute(select(Product.__table__).where(Product.id.in_(ids)))
    }


def put_products(
    session: Session,
    products: Sequence[ProductContent],
    *,
    shop_id: int,
    follow_id: int | None = None,
    keep_variants_of: Collection[str] = (),
) -> dict[str, int]:
    """Insert the products, or make those with the same handle equal to them; return ids by handle.

    Variants that a product no longer has are deleted, save for the handles in `keep_variants_of`.
    `products` has no handle twice. The caller holds the shop's lock.
    """
    if not products:
        return {}
    now = utc_now()
    inserted = session.execute(
        upsert(Product, key=("shop_id", "handle"), keep=("created_at",)).returning(
            Product.id, Product.handle
        ),
        [
            _product_row(product)
            | {"shop_id": shop_id, "follow_id": follow_id, "created_at": now, "updated_at": now}
            for product in products
        ],
    )
    ids = {handle: product_id for product_id, handle in inserted}
    variants = [
        _variant_row(variant) | {"product_id": ids[product.handle], "position": position}
        for product in products
        for position, variant in enumerate(product.variants, 1)
    ]
    swept = {ids[product.handle] for product in products if product.handle not in keep_variants_of}
    _delete_variants(session, product_ids=swept, kept=variants)
    if variants:
        session.execute(upsert(Variant, key=_VARIANT_KEY), variants)
    return ids


def _delete_variants(
    session: Session, *, product_ids: Collection[int], kept: Sequence[Mapping[str, Any]]
) -> None:
    keys = {tuple(row[name] for name in _VARIANT_KEY) for row in kept}
    there = session.execute(
        select(Variant.id, *(getattr(Variant, name) for name in _VARIANT_KEY)).where(
            Variant.product_id.in_(product_ids)
        )
    )
    gone = [variant_id for variant_id, *key in there if tuple(key) not in keys]
    for some in batched(gone, 1000):
        session.execute(delete(Variant).where(Variant.id.in_(some)))


def _product_row(product: ProductContent) -> dict[str, Any]:
    return {
        "handle": product.handle,
        "title": product.title,
        "description": product.description,
        "vendor": product.vendor,
        "product_type": product.product_type,
        "tags": list(product.tags),
        "options": list(product.options),
        "images": [{"src": src, "alt": alt} for src, alt in product.images],
        "active": product.active,
    }


def _variant_row(variant: VariantContent) -> dict[str, Any]:
    option1, option2, option3 = variant.options
    return {
        "option1": option1,
        "option2": option2,
        "option3": option3,
        "sku": variant.sku,
        "price": variant.price,
        "compare_at_price": variant.compare_at_price,
        "stock": variant.stock,
        "image": variant.image,
    }
