"""Copying a source shop's catalogue to a follower's, with the markup of the follow.

What is written in one batch is written in one transaction, and what a batch has to write is found
by comparing; so a sync that is killed and run again ends where one run ends. Only the source's own
products are copied, not those it resells itself.
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from uuid import uuid4

from sqlalchemy import delete, exists, select, update
from sqlalchemy.exc import InterfaceError, OperationalError, StatementError
from sqlalchemy.orm import Session, aliased

from jobs.follows.errors import NothingToSync
from jobs.follows.lookup import find_follow
from jobs.records import (
    Follow,
    FollowMode,
    Product,
    SyncedProduct,
    db,
    upsert,
    writing,
    writing_in_background,
)
from jobs.records.batches import batched
from jobs.records.catalogue import ProductContent, load_products, lock_shop, put_products
from jobs.records.columns import utc_now
from jobs.records.money import with_markup

LARGEST_BATCH = 100
SMALLEST_BATCH = 10
LONGEST_HANDLE = 255
LONGEST_REASON = 500

logger = logging.getLogger(__name__)

Report = Callable[[int, str], object]
"""Called with how far the sync is, 0 to 100, and a message; never inside a transaction."""


@dataclass(frozen=True, kw_only=True)
class SyncResult:
    """How many products a sync changed at the follower, found unchanged, and could not copy."""

    synced: int = 0
    skipped: int = 0
    errors: int = 0

    def __add__(self, other: "SyncResult") -> "SyncResult":
        return SyncResult(
            synced=self.synced + other.synced,
            skipped=self.skipped + other.skipped,
            errors=self.errors + other.errors,
        )


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """What a sync has to know; plain values, since every batch's transaction expires records."""

    follow_id: int
    follower_shop_id: int
    source_shop_id: int
    markup_percentage: Decimal
    currency: str
    run_id: str


def sync_all_products_for_follow(
    follow_id: int,
    *,
    run_id: str | None = None,
    report: Report = lambda percent, message: None,
    pause: float = 0,
) -> SyncResult:
    """Make the follower's copies equal to the source's active products, and return what it took.

    A copy whose source is gone or inactive is deactivated and counts as synced. A product that
    can't be copied counts as an error; its reason is kept in SyncedProduct, its copy stays as it
    was. What an earlier attempt of the same `run_id` did is counted as this one's. `pause`
    (seconds, for tests) is slept after each batch. Raises FollowNotFound and NothingToSync.
    """
    plan = _plan(follow_id, run_id=run_id or uuid4().hex)
    report(0, "Reading the source's catalogue")
    ids = _source_ids(plan)
    size = min(LARGEST_BATCH, max(SMALLEST_BATCH, -(-len(ids) // 10)))
    report(10, f"0 of {len(ids)} products")
    result = SyncResult()
    done = 0
    for batch in batched(ids, size):
        result += _copy(plan, batch)
        done += len(batch)
        report(10 + 80 * done // len(ids), f"{done} of {len(ids)} products")
        if pause:
            time.sleep(pause)
    report(90, "Looking for products that are gone")
    result += _deactivate_gone(plan)
    _remember(plan, result)
    report(100, f"{result.synced} synced, {result.skipped} unchanged, {result.errors} errors")
    return result


def _plan(follow_id: int, *, run_id: str) -> _Plan:
    db.session.rollback()
    follow = find_follow(follow_id)
    if follow.mode != FollowMode.RESELL:
        raise NothingToSync(f"Follow {follow_id} only monitors its source.")
    if follow.source.currency != follow.follower.currency:
        raise NothingToSync(
            f"Shop {follow.source.id} sells in {follow.source.currency}, "
            f"shop {follow.follower.id} in {follow.follower.currency}; prices are not converted."
        )
    plan = _Plan(
        follow_id=follow.id,
        follower_shop_id=follow.follower_shop_id,
        source_shop_id=follow.source_shop_id,
        markup_percentage=follow.markup_percentage,
        currency=follow.follower.currency,
        run_id=run_id,
    )
    db.session.rollback()
    return plan


def _source_ids(plan: _Plan) -> list[int]:
    ids = db.session.scalars(
        select(Product.id)
        .where(Product.shop_id == plan.source_shop_id, Product.follow_id.is_(None), Product.active)
        .order_by(Product.id)
    ).all()
    db.session.rollback()
    return list(ids)


def _copy(plan: _Plan, ids: Sequence[int]) -> SyncResult:
    """Copy a batch; if a product in it can't be copied, copy the batch one by one."""
    try:
        return _copy_batch(plan, ids)
    except (OperationalError, InterfaceError):
        raise  # the database's trouble, not a product's: the whole sync is tried again
    except (StatementError, ArithmeticError, LookupError, TypeError, ValueError) as error:
        db.session.rollback()
        if len(ids) == 1:
            return _remember_error(plan, ids[0], error)
    result = SyncResult()
    for product_id in ids:
        result += _copy(plan, [product_id])
    return result


def _copy_batch(plan: _Plan, ids: Sequence[int]) -> SyncResult:
    session = db.session()
    wanted = [_priced(plan, product) for product in load_products(session, ids).values()]
    copies = _copies(session, plan, [product.handle for product in wanted])
    contents = load_products(session, [copy.product_id for copy in copies.values()])
    session.rollback()
    changed = []
    again = 0  # written by an earlier attempt of this run
    for product in wanted:
        copy = copies.get(product.handle)
        if copy is None or copy.error or not _is_copy(contents[copy.product_id], product):
            changed.append(product)
        elif copy.run_id == plan.run_id:
            again += 1
    if changed:
        with writing_in_background() as transaction:
            _write(transaction, plan, changed)
    synced = len(changed) + again
    return SyncResult(synced=synced, skipped=len(wanted) - synced)


def _priced(plan: _Plan, product: ProductContent) -> ProductContent:
    def marked_up(price: Decimal) -> Decimal:
        return with_markup(price, percentage=plan.markup_percentage, currency=plan.currency)

    return replace(
        product,
        variants=tuple(
            replace(
                variant,
                price=marked_up(variant.price),
                compare_at_price=(
                    None
                    if variant.compare_at_price is None
                    else marked_up(variant.compare_at_price)
                ),
            )
            for variant in product.variants
        ),
    )


@dataclass(frozen=True, kw_only=True)
class _Copy:
    """A copy that the follower has: its id and handle there, and who wrote it last."""

    product_id: int
    handle: str
    run_id: str
    error: str | None


def _copies(session: Session, plan: _Plan, source_handles: Sequence[str]) -> dict[str, _Copy]:
    """Return the copies of these products of the source, by the source's handle."""
    rows = session.execute(
        select(
            SyncedProduct.source_handle,
            Product.id,
            Product.handle,
            SyncedProduct.run_id,
            SyncedProduct.error,
        )
        .join(Product, Product.id == SyncedProduct.product_id)
        .where(
            SyncedProduct.follow_id == plan.follow_id,
            SyncedProduct.source_handle.in_(source_handles),
        )
    )
    return {
        source_handle: _Copy(product_id=product_id, handle=handle, run_id=run_id, error=error)
        for source_handle, product_id, handle, run_id, error in rows
    }


def _is_copy(copy: ProductContent, product: ProductContent) -> bool:
    return replace(copy, handle=product.handle) == product


def _write(session: Session, plan: _Plan, products: Sequence[ProductContent]) -> None:
    lock_shop(session, plan.follower_shop_id)
    handles = _handles(session, plan, [product.handle for product in products])
    ids = put_products(
        session,
        [replace(product, handle=handles[product.handle]) for product in products],
        shop_id=plan.follower_shop_id,
        follow_id=plan.follow_id,
    )
    now = utc_now()
    session.execute(
        upsert(SyncedProduct, key=("follow_id", "source_handle")),
        [
            {
                "follow_id": plan.follow_id,
                "source_handle": product.handle,
                "product_id": ids[handles[product.handle]],
                "run_id": plan.run_id,
                "error": None,
                "synced_at": now,
            }
            for product in products
        ],
    )


def _handles(session: Session, plan: _Plan, source_handles: Sequence[str]) -> dict[str, str]:
    """Return the handle of each copy: what it has, or else the source's, or one made from that.

    The follower may sell another product under the source's handle: its own, or another copy.
    """
    handles = {
        source_handle: copy.handle
        for source_handle, copy in _copies(session, plan, source_handles).items()
    }
    new = [handle for handle in source_handles if handle not in handles]
    taken = _taken(session, plan, new)
    for source_handle in new:
        handle = source_handle
        number = 1
        while handle in taken:
            suffix = (
                f"-{plan.source_shop_id}" if number == 1 else f"-{plan.source_shop_id}-{number}"
            )
            handle = source_handle[: LONGEST_HANDLE - len(suffix)] + suffix
            taken |= _taken(session, plan, [handle])
            number += 1
        taken.add(handle)
        handles[source_handle] = handle
    return handles


def _taken(session: Session, plan: _Plan, handles: Sequence[str]) -> set[str]:
    there = select(Product.handle).where(
        Product.shop_id == plan.follower_shop_id, Product.handle.in_(handles)
    )
    return set(session.scalars(there))


def _remember_error(plan: _Plan, product_id: int, error: Exception) -> SyncResult:
    cause = getattr(error, "orig", None) or error
    reason = f"{type(cause).__name__}: {cause}"[:LONGEST_REASON]
    with writing_in_background() as session:
        handle = session.scalar(select(Product.handle).where(Product.id == product_id))
        session.execute(
            upsert(SyncedProduct, key=("follow_id", "source_handle"), keep=("product_id",)),
            [
                {
                    "follow_id": plan.follow_id,
                    "source_handle": handle,
                    "product_id": None,
                    "run_id": plan.run_id,
                    "error": reason,
                    "synced_at": utc_now(),
                }
            ],
        )
    logger.warning("follow %d can't copy product %r: %s", plan.follow_id, handle, reason)
    return SyncResult(errors=1)


def _deactivate_gone(plan: _Plan) -> SyncResult:
    """Deactivate the copies whose source is gone or inactive; forget errors about such products."""
    source = aliased(Product)
    is_offered = exists().where(
        source.shop_id == plan.source_shop_id,
        source.handle == SyncedProduct.source_handle,
        source.follow_id.is_(None),
        source.active,
    )
    gone = db.session.execute(
        select(SyncedProduct.id, SyncedProduct.run_id, Product.id, Product.active)
        .outerjoin(Product, Product.id == SyncedProduct.product_id)
        .where(SyncedProduct.follow_id == plan.follow_id, ~is_offered)
        .order_by(SyncedProduct.id)
    ).all()
    db.session.rollback()
    synced = sum(active is False and run_id == plan.run_id for _, run_id, _, active in gone)
    for batch in batched((row for row in gone if row.active is not False), LARGEST_BATCH):
        active = [(row_id, product_id) for row_id, _, product_id, is_active in batch if is_active]
        with writing_in_background() as session:
            lock_shop(session, plan.follower_shop_id)
            session.execute(
                update(Product)
                .where(Product.id.in_([product_id for _, product_id in active]))
                .values(active=False, updated_at=utc_now())
            )
            session.execute(
                update(SyncedProduct)
                .where(SyncedProduct.id.in_([row_id for row_id, _ in active]))
                .values(run_id=plan.run_id, error=None, synced_at=utc_now())
            )
            session.execute(
                delete(SyncedProduct).where(
                    SyncedProduct.id.in_([row.id for row in batch if row.active is None])
                )
            )
        synced += len(active)
    return SyncResult(synced=synced)


def _remember(plan: _Plan, result: SyncResult) -> None:
    with writing() as session:
        session.execute(
            update(Follow)
            .where(Follow.id == plan.follow_id)
            .values(
                synced_at=utc_now(),
                synced=result.synced,
                skipped=result.skipped,
                errors=result.errors,
            )
        )
