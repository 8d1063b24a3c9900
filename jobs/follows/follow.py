"""Making follows."""

from dataclasses import dataclass
from decimal import Decimal

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from jobs.follows.errors import FollowExists
from jobs.follows.lookup import find_shop
from jobs.follows.sync_queue import log_queued, queue_product_sync
from jobs.records import Follow, FollowMode, Shop, SyncedProduct, db, writing
from jobserver import Job
from jobserver.errors import PayloadInvalid

MOST_ERRORS = 100


@dataclass(frozen=True, kw_only=True)
class ProductError:
    """A product of the source that the last sync could not copy, and why."""

    handle: str
    reason: str


def create_follow(
    *,
    mode: str,
    follower_shop_id: int,
    source_shop_id: int,
    markup_percentage: Decimal,
    owner: str | None = None,
) -> tuple[Follow, Job | None]:
    """Make a follow and, to resell, its sync, in one transaction; return both.

    Raises ShopNotFound, FollowExists, and PayloadInvalid for shops of two currencies to resell
    between. Needs no Redis: the sync is queued when Redis can be reached.
    """
    job = None
    try:
        with writing() as session:
            follower = find_shop(follower_shop_id, session=session)
            source = find_shop(source_shop_id, session=session)
            if mode == FollowMode.RESELL:
                _check_currencies(follower, source)
            _check_is_new(session, follower, source, owner=owner)
            follow = Follow(
                mode=mode,
                follower_shop_id=follower.id,
                source_shop_id=source.id,
                markup_percentage=markup_percentage,
                owner=owner,
            )
            session.add(follow)
            session.flush()
            if mode == FollowMode.RESELL:
                job = queue_product_sync(follow.id, session=session)
    except IntegrityError:
        # Somebody made it between our look and our insert; PostgreSQL lets two writers in.
        raise FollowExists(
            f"Shop {follower_shop_id} follows shop {source_shop_id} already."
        ) from None
    if job is not None:
        log_queued(follow.id)
    return follow, job


def product_errors(follow_id: int) -> list[ProductError]:
    """Return why products of a follow's source could not be copied, at most 100 of them."""
    rows = db.session.execute(
        select(SyncedProduct.source_handle, SyncedProduct.error)
        .where(SyncedProduct.follow_id == follow_id, SyncedProduct.error.is_not(None))
        .order_by(SyncedProduct.source_handle)
        .limit(MOST_ERRORS)
    )
    return [ProductError(handle=handle, reason=reason or "") for handle, reason in rows]


def _check_currencies(follower: Shop, source: Shop) -> None:
    if follower.currency != source.currency:
        detail = (
            f"sourceShopId: a shop that sells in {follower.currency} is accepted, as prices are "
            f"not converted; shop {source.id} sells in {source.currency}."
        )
        raise PayloadInvalid(errors=[{"pointer": "#/sourceShopId", "detail": detail}])


def _check_is_new(session: Session, follower: Shop, source: Shop, *, owner: str | None) -> None:
    there = session.scalar(
        select(Follow).where(
            Follow.follower_shop_id == follower.id, Follow.source_shop_id == source.id
        )
    )
    if there is not None:
        which = f": follow {there.id}" if owner in (None, there.owner) else ""
        raise FollowExists(f"Shop {follower.id} follows shop {source.id} already{which}.")
