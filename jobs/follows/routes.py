"""`/api/follows` and `/api/shops`, as the seed has them."""

import json
from decimal import Decimal
from math import ceil
from typing import Any

from flask import Blueprint, Response, jsonify, request, url_for
from sqlalchemy import func, select
from sqlalchemy.orm import selectinload

from jobs.follows.follow import create_follow, product_errors
from jobs.follows.lookup import find_follow, find_shop
from jobs.follows.paging import listing, requested_page
from jobs.follows.schemas import (
    FollowAnswerSchema,
    FollowMadeSchema,
    FollowPageSchema,
    FollowQueuedSchema,
    FollowRequestSchema,
    FollowSchema,
    ListingSchema,
    ProductPageSchema,
    ShopPageSchema,
    ShopSchema,
    SyncStatusAnswerSchema,
    SyncStatusSchema,
    product_body,
)
from jobs.follows.status import get_sync_status
from jobs.records import Follow, Product, Shop, db
from jobs.settings import current_settings
from jobserver import JobServer
from jobserver.errors import Malformed

follows = Blueprint("follows", __name__, url_prefix="/api/follows")
shops = Blueprint("shops", __name__, url_prefix="/api/shops")

REQUEST = FollowRequestSchema()
FOLLOW = FollowSchema()
SYNC_STATUS = SyncStatusSchema()
SHOP = ShopSchema()


@follows.post("")
@JobServer.idempotent
@JobServer.describe(
    body=FollowRequestSchema,
    answers={201: FollowMadeSchema, 202: FollowQueuedSchema},
    errors=(404, 409),
)
@JobServer.needs("operator", owners=True)
def create() -> tuple[Response, int, dict[str, str]]:
    """Follow a shop: 202 to resell, its products are then synced in the background, else 201."""
    values = REQUEST.load(_body())
    follow, job = create_follow(
        mode=values["mode"],
        follower_shop_id=values["followerShopId"],
        source_shop_id=values["sourceShopId"],
        markup_percentage=values.get("markupPercentage", Decimal(0)),
        owner=JobServer.principal().owner,
    )
    if job is None:
        body = {"success": True, "data": FOLLOW.dump(follow), "message": "Follow created."}
        return jsonify(body), 201, {"Location": url_for("follows.show", follow_id=follow.id)}
    status = url_for("jobserver_polling.get_job", job_id=job.id)
    body = {
        "success": True,
        "data": FOLLOW.dump(follow),
        "message": "Follow created. Products are syncing in background.",
        "sync_status": "pending",
    }
    headers = {
        "Location": status,
        "Retry-After": str(ceil(current_settings().poll_interval)),
        "Link": f'<{status}>; rel="status"',
    }
    return jsonify(body), 202, headers


@follows.get("")
@JobServer.describe(query=ListingSchema, answers={200: FollowPageSchema})
def index() -> Response:
    """List the follows, the newest first."""
    page = requested_page(of="follows")
    newest = select(Follow).order_by(Follow.id.desc()).limit(page.limit + 1)
    asker = JobServer.principal()
    if asker.role == "user":
        # Nobody's follows are not those of a user who has no owner.
        newest = newest.where(Follow.owner == asker.owner, Follow.owner.is_not(None))
    if page.after is not None:
        newest = newest.where(Follow.id < page.after)
    found = listing(
        db.session.scalars(newest).all(), page=page, of="follows", row_id=lambda row: row.id
    )
    response = jsonify(found.body(FOLLOW.dump))
    response.headers.extend(found.headers(url_for("follows.index")))
    return response


@follows.get("/<int:follow_id>")
@JobServer.describe(answers={200: FollowAnswerSchema})
def show(follow_id: int) -> Response:
    """Show one follow, with what its last sync did."""
    follow = find_follow(follow_id, seen_by=JobServer.principal())
    refused = [
        {"handle": error.handle, "reason": error.reason} for error in product_errors(follow_id)
    ]
    return jsonify({"success": True, "data": FOLLOW.dump(follow) | {"productErrors": refused}})


@follows.get("/<int:follow_id>/sync-status")
@JobServer.describe(answers={200: SyncStatusAnswerSchema})
def sync_status(follow_id: int) -> Response:
    """Say how far the sync of a follow is; poll it."""
    status = get_sync_status(follow_id, seen_by=JobServer.principal())
    return jsonify({"success": True, "data": SYNC_STATUS.dump(status)})


@shops.get("")
@JobServer.describe(query=ListingSchema, answers={200: ShopPageSchema})
def list_shops() -> Response:
    """List the shops with the number of products they offer, by id."""
    page = requested_page(of="shops")
    offered = (
        select(Product.shop_id, func.count().label("product_count"))
        .where(Product.active)
        .group_by(Product.shop_id)
        .subquery()
    )
    rows = db.session.execute(
        select(
            Shop.id,
            Shop.name,
            Shop.currency,
            Shop.plan,
            func.coalesce(offered.c.product_count, 0).label("product_count"),
        )
        .outerjoin(offered, offered.c.shop_id == Shop.id)
        .where(Shop.id > (page.after or 0))
        .order_by(Shop.id)
        .limit(page.limit + 1)
    ).all()
    found = listing(rows, page=page, of="shops", row_id=lambda row: row.id)
    response = jsonify(found.body(SHOP.dump))
    response.headers.extend(found.headers(url_for("shops.list_shops")))
    return response


@shops.get("/<int:shop_id>/products")
@JobServer.describe(query=ListingSchema, answers={200: ProductPageSchema})
def list_products(shop_id: int) -> Response:
    """List a shop's products with their variants, its own and those it resells, by id."""
    shop = find_shop(shop_id)
    name = f"products of {shop_id}"
    page = requested_page(of=name)
    rows = db.session.scalars(
        select(Product)
        .where(Product.shop_id == shop_id, Product.id > (page.after or 0))
        .order_by(Product.id)
        .limit(page.limit + 1)
        .options(selectinload(Product.variants))
    ).all()
    found = listing(rows, page=page, of=name, row_id=lambda row: row.id)
    response = jsonify(found.body(lambda row: product_body(row, currency=shop.currency)))
    response.headers.extend(found.headers(url_for("shops.list_products", shop_id=shop_id)))
    return response


def _body() -> Any:
    """Return the request's JSON, whatever its Content-Type says: the seed's curl sends a form's."""
    try:
        return json.loads(request.get_data())
    except (ValueError, RecursionError) as error:
        raise Malformed(f"The body is no JSON: {error}") from None
