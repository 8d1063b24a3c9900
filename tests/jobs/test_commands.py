"""`flask follows` and the demo data, on both databases."""

from pathlib import Path

import pytest
from flask import Flask
from sqlalchemy import select

from jobs.follows.demo import SHOPS, demo_products, fill_empty_database
from jobs.records import Follow, Plan, Product, Shop, db
from tests.jobs.shops import a_product, make_follow, make_shop, products_of, stock_shop
from tests.jobs.test_catalogue import LINES, write


def run(app: Flask, *arguments: str) -> tuple[int, str, str]:
    """Run `flask follows …`; its exit code, output and error output."""
    db.session.remove()
    result = app.test_cli_runner().invoke(args=["follows", *arguments])
    db.session.remove()
    return result.exit_code, result.stdout, result.stderr


def test_flask_db_has_flask_migrate_s_commands(app: Flask) -> None:
    result = app.test_cli_runner().invoke(args=["db", "--help"])
    assert result.exit_code == 0
    assert "upgrade" in result.stdout


def test_a_catalogue_is_imported_into_a_shop_by_its_id(app: Flask, tmp_path: Path) -> None:
    shop = make_shop("Shop")
    path = write(tmp_path, *LINES, "bad,Bad,,,free,,")
    code, output, error = run(app, "import-catalogue", str(shop), str(path))
    assert code == 0
    assert "2 products created, 0 updated, 3 variants; 1 rows refused" in output
    assert "catalogue.csv:6: price is 'free'" in error
    assert set(products_of(shop)) == {"shirt", "hat"}
    _, output, _ = run(app, "import-catalogue", str(shop), str(path))
    assert "0 products created, 2 updated" in output


def test_a_name_makes_a_shop_once(app: Flask, tmp_path: Path) -> None:
    path = write(tmp_path, "hat,Hat,,,550,1,")
    code, output, _ = run(app, "import-catalogue", "Tōkyō Hats", str(path), "--currency", "JPY")
    assert code == 0
    assert "Made shop" in output
    code, output, _ = run(app, "import-catalogue", "Tōkyō Hats", str(path))
    assert "1 updated" in output
    (shop,) = db.session.scalars(select(Shop)).all()
    assert (shop.name, shop.currency) == ("Tōkyō Hats", "JPY")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("999", "{file}"), "No shop has the id 999"),
        (("9" * 40, "{file}"), "No shop has the id"),
        (("Shop", "{file}", "--currency", "dollars"), "use three letters like USD"),
        (("Shop", "{folder}/missing.csv"), "does not exist"),
        (("Shop", "{folder}"), "is a directory"),
        (("Shop", "{folder}/people.csv"), "people.csv:1: this is no Shopify product CSV"),
    ],
)
def test_what_cannot_be_imported_is_said_in_one_line(
    app: Flask, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    (tmp_path / "people.csv").write_text("name\nA\n")
    names = {"file": str(write(tmp_path, *LINES)), "folder": str(tmp_path)}
    code, _, error = run(app, "import-catalogue", *(each.format(**names) for each in arguments))
    assert code != 0
    assert message in error
    assert "Traceback" not in error


def test_demo_data_fills_an_empty_database_only(app: Flask) -> None:
    code, output, _ = run(app, "demo")
    assert (code, "12 shops made" in output) == (0, True)
    shops = db.session.scalars(select(Shop).order_by(Shop.id)).all()
    assert [shop.id for shop in shops] == list(range(1, 13))
    assert {shop.plan for shop in shops} == {Plan.FREE, Plan.PREMIUM}
    assert len(products_of(1)) >= 120
    assert all(products_of(shop_id) for shop_id in range(1, 13))
    assert db.session.scalars(select(Follow)).all() == []
    before = db.session.execute(select(Product.id, Product.updated_at)).all()
    code, output, _ = run(app, "demo")
    assert (code, "there are shops already" in output) == (0, True)
    assert db.session.execute(select(Product.id, Product.updated_at)).all() == before


def test_demo_data_leaves_a_database_with_a_shop_alone(app: Flask) -> None:
    make_shop("Mine")
    assert fill_empty_database() == 0
    assert [shop.name for shop in db.session.scalars(select(Shop))] == ["Mine"]


def test_shops_can_be_made_after_the_demo_data(app: Flask) -> None:
    fill_empty_database()
    shop = make_shop("Thirteenth")
    assert shop == 13
    stock_shop(shop, [a_product(1)])
    make_follow(1, shop)


def test_demo_data_is_the_same_every_time_and_not_plain() -> None:
    for shop_id, (_, count) in enumerate(SHOPS, 1):
        products = demo_products(shop_id, count)
        assert products == demo_products(shop_id, count)
        assert len({product.handle for product in products}) == count
    products = demo_products(1, SHOPS[0][1])
    assert max(len(product.variants) for product in products) > 3
    assert max(len(product.images) for product in products) > 1
    assert any(not product.title.isascii() for product in products)
    assert any("<" in product.title for product in products)
    assert all(len(product.title) <= 255 for product in products)
