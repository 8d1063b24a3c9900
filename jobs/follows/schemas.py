"""The JSON of `/api/follows` and `/api/shops`, names as the seed has them."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from marshmallow import Schema, ValidationError, fields, post_dump, validate, validates_schema

from jobs.follows.paging import LARGEST_LIMIT
from jobs.records import FollowMode, Product, Variant
from jobs.records.columns import LARGEST_INTEGER
from jobs.records.money import round_to_unit

MARKUP = "markupPercentage: a number from 0 to 500 is accepted, with at most 2 decimals."
MODE = "mode: resell or monitor is accepted."
UNKNOWN = "This field is unknown; mode, followerShopId, sourceShopId and markupPercentage are not."


def _shop_id(name: str) -> fields.Integer:
    accepted = f"{name}: the id of a shop, a whole number from 1, is accepted."
    return fields.Integer(
        required=True,
        strict=True,
        validate=validate.Range(1, LARGEST_INTEGER, error=accepted),
        error_messages=dict.fromkeys(("required", "null", "invalid", "too_large"), accepted),
    )


def _has_two_places(value: Decimal) -> None:
    # What is beyond the range is refused as that; a number of 300 digits cannot be rounded.
    if abs(value) <= 500 and value != round(value, 2):
        raise ValidationError(MARKUP)


class FollowRequestSchema(Schema):
    """What a follow is made of; `markupPercentage` may be left out when only monitoring."""

    error_messages = {  # noqa: RUF012 (marshmallow's own way)
        "unknown": UNKNOWN,
        "type": "A JSON object with mode, followerShopId, sourceShopId and markupPercentage.",
    }

    mode = fields.String(
        required=True,
        validate=validate.OneOf([mode.value for mode in FollowMode], error=MODE),
        error_messages=dict.fromkeys(("required", "null", "invalid"), MODE),
    )
    followerShopId = _shop_id("followerShopId")
    sourceShopId = _shop_id("sourceShopId")
    markupPercentage = fields.Decimal(
        validate=[validate.Range(0, 500, error=MARKUP), _has_two_places],
        error_messages=dict.fromkeys(("null", "invalid", "special", "too_large"), MARKUP),
    )

    @validates_schema
    def _is_whole(self, values: Mapping[str, Any], **_: Any) -> None:
        if values["mode"] == FollowMode.RESELL and "markupPercentage" not in values:
            raise ValidationError(MARKUP, "markupPercentage")
        if values["followerShopId"] == values["sourceShopId"]:
            raise ValidationError(
                "sourceShopId: another shop than followerShopId is accepted.", "sourceShopId"
            )


class SyncCountsSchema(Schema):
    """What a sync did."""

    synced = fields.Integer(required=True)
    skipped = fields.Integer(required=True)
    errors = fields.Integer(required=True)


class LastSyncSchema(SyncCountsSchema):
    """What the last completed sync of a follow did, and when it ended."""

    syncedAt = fields.AwareDateTime(required=True, attribute="synced_at")


class _LastSync(fields.Nested):
    """What a follow tells of its last sync, None before the first one has completed."""

    def get_value(self, obj: Any, *_: Any, **__: Any) -> Any:
        """Return the follow itself, which has the columns."""
        return obj if obj.synced_at else None


class FollowSchema(Schema):
    """A follow; dumps a `Follow`."""

    id = fields.Integer(required=True)
    mode = fields.String(required=True)
    followerShopId = fields.Integer(required=True, attribute="follower_shop_id")
    sourceShopId = fields.Integer(required=True, attribute="source_shop_id")
    markupPercentage = fields.Float(required=True, attribute="markup_percentage")
    status = fields.String(required=True)
    createdAt = fields.AwareDateTime(required=True, attribute="created_at")
    updatedAt = fields.AwareDateTime(required=True, attribute="updated_at")
    lastSync = _LastSync(LastSyncSchema, required=True, allow_none=True)


class SyncStatusSchema(Schema):
    """How far a sync is; dumps a `SyncStatus`. `results` is there only when completed."""

    follow_id = fields.Integer(required=True)
    status = fields.String(required=True, allow_none=True)
    progress = fields.Integer(required=True)
    jobId = fields.String(required=True, allow_none=True, attribute="job_id")
    createdAt = fields.AwareDateTime(required=True, attribute="created_at")
    rawStatus = fields.String(attribute="raw_status")
    message = fields.String()
    results = fields.Nested(SyncCountsSchema)
    failedReason = fields.String(attribute="failed_reason")

    @post_dump
    def _leave_out_what_is_not(self, body: dict[str, Any], **_: Any) -> dict[str, Any]:
        optional = ("rawStatus", "message", "results", "failedReason")
        return {
            name: value for name, value in body.items() if value is not None or name not in optional
        }


class FollowMadeSchema(Schema):
    """That a follow was made."""

    success = fields.Boolean(required=True)
    data = fields.Nested(FollowSchema, required=True)
    message = fields.String(required=True)


class FollowQueuedSchema(FollowMadeSchema):
    """That a follow was made, whose products are being synced."""

    sync_status = fields.String(required=True, validate=validate.Equal("pending"))


class ProductErrorSchema(Schema):
    """Why a product was not synced."""

    handle = fields.String(required=True)
    reason = fields.String(required=True)


class FollowDetailsSchema(FollowSchema):
    """A follow, with what its last sync could not do."""

    productErrors = fields.List(fields.Nested(ProductErrorSchema), required=True)


class FollowAnswerSchema(Schema):
    """A follow."""

    success = fields.Boolean(required=True)
    data = fields.Nested(FollowDetailsSchema, required=True)


class SyncStatusAnswerSchema(Schema):
    """How far a follow's sync is."""

    success = fields.Boolean(required=True)
    data = fields.Nested(SyncStatusSchema, required=True)


class ListingSchema(Schema):
    """How much of a listing is wanted, and from where on."""

    limit = fields.Integer(validate=validate.Range(1, LARGEST_LIMIT))
    cursor = fields.String()


class PageSchema(Schema):
    """One page of a listing."""

    nextCursor = fields.String(required=True, allow_none=True)


class FollowPageSchema(PageSchema):
    """One page of follows."""

    items = fields.List(fields.Nested(FollowSchema), required=True)


class ShopSchema(Schema):
    """A shop, with how many products it offers."""

    id = fields.Integer(required=True)
    name = fields.String(required=True)
    currency = fields.String(required=True)
    plan = fields.String(required=True)
    productCount = fields.Integer(required=True, attribute="product_count")


class ShopPageSchema(PageSchema):
    """One page of shops."""

    items = fields.List(fields.Nested(ShopSchema), required=True)


class VariantSchema(Schema):
    """A variant of a product; prices are decimal strings."""

    id = fields.Integer(required=True)
    options = fields.List(fields.String(), required=True)
    sku = fields.String(required=True, allow_none=True)
    price = fields.String(required=True)
    compareAtPrice = fields.String(required=True, allow_none=True)
    stock = fields.Integer(required=True)
    image = fields.String(required=True, allow_none=True)


class ProductSchema(Schema):
    """A product that a shop offers, its own or one that it resells."""

    id = fields.Integer(required=True)
    handle = fields.String(required=True)
    title = fields.String(required=True)
    description = fields.String(required=True)
    vendor = fields.String(required=True)
    productType = fields.String(required=True)
    tags = fields.List(fields.String(), required=True)
    options = fields.List(fields.String(), required=True)
    images = fields.List(fields.Dict(), required=True)
    active = fields.Boolean(required=True)
    followId = fields.Integer(required=True, allow_none=True)
    currency = fields.String(required=True)
    updatedAt = fields.AwareDateTime(required=True)
    variants = fields.List(fields.Nested(VariantSchema), required=True)


class ProductPageSchema(PageSchema):
    """One page of products."""

    items = fields.List(fields.Nested(ProductSchema), required=True)


def _price(amount: Decimal | None, currency: str) -> str | None:
    return None if amount is None else format(round_to_unit(amount, currency=currency), "f")


def variant_body(variant: Variant, *, currency: str) -> dict[str, Any]:
    """Return a variant as `GET /api/shops/<id>/products` shows it; prices are decimal strings."""
    return {
        "id": variant.id,
        "options": [
            value for value in (variant.option1, variant.option2, variant.option3) if value
        ],
        "sku": variant.sku,
        "price": _price(variant.price, currency),
        "compareAtPrice": _price(variant.compare_at_price, currency),
        "stock": variant.stock,
        "image": variant.image,
    }


def product_body(product: Product, *, currency: str) -> dict[str, Any]:
    """Return a product as `GET /api/shops/<id>/products` shows it."""
    return {
        "id": product.id,
        "handle": product.handle,
        "title": product.title,
        "description": product.description,
        "vendor": product.vendor,
        "productType": product.product_type,
        "tags": product.tags,
        "options": product.options,
        "images": product.images,
        "active": product.active,
        "followId": product.follow_id,
        "currency": currency,
        "updatedAt": product.updated_at.isoformat(),
        "variants": [variant_body(variant, currency=currency) for variant in product.variants],
    }
