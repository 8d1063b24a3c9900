"""Importing a shop's own catalogue from a Shopify CSV."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from jobs.follows.lookup import find_shop
from jobs.follows.shopify_csv import CatalogueProduct, RefusedRow, read_catalogue
from jobs.records import Product, writing_in_background
from jobs.records.batches import batched
from jobs.records.catalogue import lock_shop, put_products

BATCH = 200


@dataclass(frozen=True, kw_only=True)
class ImportReport:
    """How many products an import made and updated, their variants, and the rows it refused."""

    created: int = 0
    updated: int = 0
    variants: int = 0
    refused: int = 0

    def __add__(self, other: "ImportReport") -> "ImportReport":
        return ImportReport(
            created=self.created + other.created,
            updated=self.updated + other.updated,
            variants=self.variants + other.variants,
            refused=self.refused + other.refused,
        )


def import_catalogue(
    shop_id: int, path: Path, *, on_refused: Callable[[RefusedRow], object] = lambda row: None
) -> ImportReport:
    """Import a Shopify product CSV into a shop: make what is new, update what is there.

    Products that the file does not name stay as they are. `on_refused` is called with every row
    that is left out. Raises ShopNotFound, CatalogueUnreadable and OSError.
    """
    currency = find_shop(shop_id).currency
    report = ImportReport()
    for batch in batched(read_catalogue(path, currency=currency), BATCH):
        refused = [row for row in batch if isinstance(row, RefusedRow)]
        products = [row for row in batch if isinstance(row, CatalogueProduct)]
        with writing_in_background() as session:
            stored, held = _store(session, products, shop_id=shop_id, file=path.name)
        report += stored
        for row in [*refused, *held]:
            report += ImportReport(refused=1)
            on_refused(row)
    return report


def _store(
    session: Session, products: Sequence[CatalogueProduct], *, shop_id: int, file: str
) -> tuple[ImportReport, list[RefusedRow]]:
    lock_shop(session, shop_id)
    there = select(Product.handle, Product.follow_id).where(
        Product.shop_id == shop_id,
        Product.handle.in_([product.content.handle for product in products]),
    )
    follows = {handle: follow_id for handle, follow_id in session.execute(there)}
    held = [product for product in products if follows.get(product.content.handle) is not None]
    stored = [product for product in products if follows.get(product.content.handle) is None]
    put_products(
        session,
        [product.content for product in stored],
        shop_id=shop_id,
        keep_variants_of={product.content.handle for product in stored if not product.complete},
    )
    updated = sum(product.content.handle in follows for product in stored)
    return (
        ImportReport(
            created=len(stored) - updated,
            updated=updated,
            variants=sum(len(product.content.variants) for product in stored),
        ),
        [
            RefusedRow(
                file=file,
                line=product.line,
                reason=f"the handle {product.content.handle!r} is held by a product "
                f"that follow {follows[product.content.handle]} copied into this shop",
            )
            for product in held
        ],
    )
