"""Importing a Shopify CSV into a shop, on both databases."""

from pathlib import Path

import pytest
from flask import Flask
from sqlalchemy import func, select

from jobs.follows.catalogue import ImportReport, import_catalogue
from jobs.follows.errors import CatalogueUnreadable, ShopNotFound
from jobs.follows.shopify_csv import RefusedRow
from jobs.follows.sync import SyncResult, sync_all_products_for_follow
from jobs.records import Product, Variant, db
from tests.jobs.shops import a_product, make_follow, make_shop, products_of, stock_shop

HEADER = "Handle,Title,Option1 Name,Option1 Value,Variant Price,Variant Inventory Qty,Image Src"
LINES = (
    "shirt,Shirt,Size,S,10.00,1,https://images.example/shirt.jpg",
    "shirt,,,M,11.00,2,",
    "shirt,,,,,,https://images.example/back.jpg",
    "hat,Hat,Title,Default Title,5.50,3,",
)


@pytest.fixture
def shop(app: Flask) -> int:
    """An empty shop."""
    return make_shop("Shop")


def write(folder: Path, *lines: str) -> Path:
    """Write a catalogue."""
    path = folder / "catalogue.csv"
    path.write_text("\n".join([HEADER, *lines]) + "\n", encoding="utf-8")
    return path


def counts() -> tuple[int | None, int | None]:
    """How many products and variants there are."""
    found = (
        db.session.scalar(select(func.count()).select_from(Product)),
        db.session.scalar(select(func.count()).select_from(Variant)),
    )
    db.session.rollback()
    return found


def test_a_second_import_updates_and_doubles_nothing(shop: int, tmp_path: Path) -> None:
    path = write(tmp_path, *LINES)
    assert import_catalogue(shop, path) == ImportReport(created=2, variants=3)
    before = products_of(shop)
    assert import_catalogue(shop, path) == ImportReport(updated=2, variants=3)
    assert products_of(shop) == before
    changed = write(tmp_path, LINES[0].replace("10.00", "12.00"), *LINES[1:])
    import_catalogue(shop, changed)
    assert counts() == (2, 3)
    assert [str(each.price) for each in products_of(shop)["shirt"].variants] == ["12", "11"]


def test_a_variant_that_the_file_no_longer_has_is_removed(shop: int, tmp_path: Path) -> None:
    import_catalogue(shop, write(tmp_path, *LINES))
    import_catalogue(shop, write(tmp_path, LINES[0], *LINES[2:]))
    assert [each.options[0] for each in products_of(shop)["shirt"].variants] == ["S"]


def test_a_refused_row_does_not_remove_the_variant_it_is_about(shop: int, tmp_path: Path) -> None:
    import_catalogue(shop, write(tmp_path, *LINES))
    refused: list[RefusedRow] = []
    report = import_catalogue(
        shop,
        write(tmp_path, LINES[0], LINES[1].replace("11.00", "eleven"), *LINES[2:]),
        on_refused=refused.append,
    )
    assert report == ImportReport(updated=2, variants=2, refused=1)
    assert [(row.line, row.file) for row in refused] == [(3, "catalogue.csv")]
    assert len(products_of(shop)["shirt"].variants) == 2


def test_products_the_file_does_not_name_stay(shop: int, tmp_path: Path) -> None:
    stock_shop(shop, [a_product(1)])
    import_catalogue(shop, write(tmp_path, *LINES))
    assert set(products_of(shop)) == {"product-1", "shirt", "hat"}


def test_a_copy_that_a_follow_keeps_is_not_overwritten(shop: int, tmp_path: Path) -> None:
    source = make_shop("Source")
    import_catalogue(source, write(tmp_path, *LINES))
    follow = make_follow(shop, source)
    sync_all_products_for_follow(follow)
    refused: list[RefusedRow] = []
    report = import_catalogue(shop, write(tmp_path, LINES[3]), on_refused=refused.append)
    assert report == ImportReport(refused=1)
    assert f"follow {follow} copied" in refused[0].reason
    assert sync_all_products_for_follow(follow) == SyncResult(skipped=2)


def test_more_products_than_one_batch_are_imported(shop: int, tmp_path: Path) -> None:
    lines = [f"p-{number},Product {number},,,{number}.25,1," for number in range(450)]
    assert import_catalogue(shop, write(tmp_path, *lines)) == ImportReport(
        created=450, variants=450
    )
    assert counts() == (450, 450)


def test_an_unknown_shop_or_a_foreign_file_imports_nothing(shop: int, tmp_path: Path) -> None:
    with pytest.raises(ShopNotFound, match="999"):
        import_catalogue(999, write(tmp_path, *LINES))
    foreign = tmp_path / "people.csv"
    foreign.write_text("name,email\nA,a@example.com\n")
    with pytest.raises(CatalogueUnreadable, match="lacks handle, title, variant price"):
        import_catalogue(shop, foreign)
    assert counts() == (0, 0)


def test_real_catalogues_are_imported_and_synced_whole(
    shop: int, shared_catalogues: list[Path]
) -> None:
    for path in shared_catalogues:
        report = import_catalogue(shop, path)
        assert (report.created, report.refused) == (20, 0)
        assert import_catalogue(shop, path).updated == 20
    products, variants = counts()
    follower = make_shop("Follower")
    result = sync_all_products_for_follow(make_follow(follower, shop, markup="12.5"))
    assert result == SyncResult(synced=products or 0)
    assert counts() == (2 * (products or 0), 2 * (variants or 0))
    pot = products_of(follower)["clay-plant-pot"]
    assert [str(each.price) for each in pot.variants] == ["11.24", "17.99"]
