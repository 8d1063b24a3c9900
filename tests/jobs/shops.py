"""Making shops, products and follows for tests, and looking at what a sync left."""

from dataclasses import replace
from decimal import Decimal
from typing import NamedTuple

from sqlalchemy import select

from jobs.records import Follow, FollowMode, Product, Shop, SyncedProduct, db, writing
from jobs.records.catalogue import ProductContent, VariantContent, load_products, put_products


def make_shop(name: str, *, currency: str = "USD", plan: str = "free") -> int:
    """Make a shop; its id."""
    with writing() as session:
        shop = Shop(name=name, currency=currency, plan=plan)
        session.add(shop)
        session.flush()
        return shop.id


def make_follow(
    follower: int, source: int, *, mode: str = FollowMode.RESELL, markup: str = "20"
) -> int:
    """Make a follow without a sync; its id."""
    with writing() as session:
        follow = Follow(
            follower_shop_id=follower,
            source_shop_id=source,
            mode=mode,
            markup_percentage=Decimal(markup),
        )
        session.add(follow)
        session.flush()
        return follow.id


def a_product(number: int, *, price: str = "10.00", variants: int = 2) -> ProductContent:
    """A product with a few variants."""
    return ProductContent(
        handle=f"product-{number}",
        title=f"Product {number}",
        description="<p>Good</p>",
        tags=("a", "b"),
        options=("Size",),
        images=((f"https://images.example/{number}.jpg", "front"),),
        variants=tuple(
            VariantContent(options=(f"S{size}", "", ""), price=Decimal(price) + size, stock=size)
            for size in range(variants)
        ),
    )


def stock_shop(shop: int, products: list[ProductContent]) -> None:
    """Put products into a shop's own catalogue."""
    with writing() as session:
        put_products(session, products, shop_id=shop)


def products_of(shop: int) -> dict[str, ProductContent]:
    """All products of a shop, by handle."""
    ids = db.session.scalars(select(Product.id).where(Product.shop_id == shop)).all()
    products = {each.handle: each for each in load_products(db.session(), ids).values()}
    db.session.rollback()
    return products


def remove_product(shop: int, handle: str) -> None:
    """Delete a product with its variants."""
    with writing() as session:
        found = select(Product).where(Product.shop_id == shop, Product.handle == handle)
        session.delete(session.scalars(found).one())


def change_product(shop: int, handle: str, **changes: object) -> None:
    """Change what a shop's own product contains."""
    stock_shop(shop, [replace(products_of(shop)[handle], **changes)])  # type: ignore[arg-type]


class State(NamedTuple):
    """What a sync is there to bring about, without the ids and times of the run."""

    products: dict[str, ProductContent]
    synced: list[tuple[str, str | None, str | None]]
    counts: tuple[int | None, int | None, int | None]


def state_of(follow_id: int) -> State:
    """The follower's catalogue, what the follow keeps about each product, and its counts."""
    follow = db.session.get_one(Follow, follow_id, populate_existing=True)
    counts = (follow.synced, follow.skipped, follow.errors)
    shop = follow.follower_shop_id
    synced = db.session.execute(
        select(SyncedProduct.source_handle, Product.handle, SyncedProduct.error)
        .outerjoin(Product, Product.id == SyncedProduct.product_id)
        .where(SyncedProduct.follow_id == follow_id)
        .order_by(SyncedProduct.source_handle)
    )
    rows = [(source, copy, error) for source, copy, error in synced]
    return State(products_of(shop), sorted(rows), counts)
