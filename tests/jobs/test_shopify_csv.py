"""Reading Shopify's product CSV."""

import csv
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.follows.errors import CatalogueUnreadable
from jobs.follows.shopify_csv import CatalogueProduct, RefusedRow, read_catalogue
from jobs.records.catalogue import ProductContent

HEADER = (
    "Handle,Title,Body (HTML),Vendor,Type,Tags,Published,Option1 Name,Option1 Value,"
    "Option2 Name,Option2 Value,Variant SKU,Variant Inventory Qty,Variant Price,"
    "Variant Compare At Price,Image Src,Image Position,Image Alt Text,Variant Image"
)
COLUMNS = HEADER.split(",")


def row(**cells: str) -> str:
    """One line; names are columns with `_` for a space, in any case."""
    by_name = {name.lower().replace(" ", "_"): "" for name in COLUMNS} | cells
    return ",".join(f'"{value}"' if value else "" for value in by_name.values())


def read(
    tmp_path: Path, *lines: str, currency: str = "USD", header: str = HEADER
) -> tuple[list[ProductContent], list[RefusedRow]]:
    path = tmp_path / "catalogue.csv"
    text = "\n".join([header, *lines]) + "\n"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    found = list(read_catalogue(path, currency=currency))
    products = [each.content for each in found if isinstance(each, CatalogueProduct)]
    return products, [each for each in found if isinstance(each, RefusedRow)]


SHIRT = row(
    handle="shirt",
    title="Shirt",
    option1_name="Size",
    option1_value="S",
    variant_price="10.00",
    image_src="https://images.example/b.jpg",
    image_position="2",
    tags="men, summer,",
)


def test_continuation_rows_are_variants_or_images_or_both(tmp_path: Path) -> None:
    products, refused = read(
        tmp_path,
        SHIRT,
        row(handle="shirt", option1_value="M", variant_price="11", variant_inventory_qty="7"),
        row(handle="shirt", image_src="https://images.example/a.jpg", image_position="1"),
        row(
            handle="shirt",
            option1_value="L",
            variant_price="12.5",
            image_src="https://images.example/c.jpg",
            image_alt_text="From behind",
        ),
        row(handle="hat", title="Hat", variant_price="5"),
    )
    assert refused == []
    shirt, hat = products
    assert [(v.options[0], v.price, v.stock) for v in shirt.variants] == [
        ("S", Decimal("10.00"), 0),
        ("M", Decimal("11"), 7),
        ("L", Decimal("12.5"), 0),
    ]
    assert shirt.images == (
        ("https://images.example/a.jpg", ""),
        ("https://images.example/b.jpg", ""),
        ("https://images.example/c.jpg", "From behind"),
    )
    assert shirt.tags == ("men", "summer")
    assert shirt.options == ("Size",)
    assert (hat.title, len(hat.variants), hat.variants[0].sku) == ("Hat", 1, None)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (row(handle="shirt", option1_value="M", variant_price="abc"), "price is 'abc'"),
        (row(handle="shirt", option1_value="M", variant_price="-1"), "price is '-1'"),
        (row(handle="shirt", option1_value="M", variant_price="NaN"), "price is 'NaN'"),
        (row(handle="shirt", option1_value="M", variant_price="1e3"), "price is '1e3'"),
        (row(handle="shirt", option1_value="M", variant_price="1,000.00"), "price is '1,000.00'"),
        (row(handle="shirt", option1_value="M", variant_price="9.999"), "at most 2 decimals"),
        (row(handle="shirt", option1_value="M", variant_price="9" * 15), "price is '999"),
        (row(handle="shirt", option1_value="M"), "the variant has no price"),
        (row(handle="shirt", variant_price="3"), "no value for option 'Size'"),
        (row(handle="shirt", option1_value="S", variant_price="3"), "'S' is there twice"),
        (row(handle="shirt"), "neither a variant's price nor an image"),
        (row(handle="shirt", image_src="javascript:alert(1)"), "image is 'javascript:alert(1)'"),
        (row(handle="shirt", image_src="http://["), "image is 'http://['"),
        (
            row(handle="shirt", option1_value="M", variant_price="3", variant_inventory_qty="some"),
            "inventory quantity is 'some'",
        ),
        (
            row(
                handle="shirt",
                option1_value="M",
                variant_price="3",
                variant_inventory_qty="99999999999",
            ),
            "inventory quantity is '99999999999'",
        ),
        (row(title="No handle", variant_price="3"), "it has no handle"),
        (row(handle="shirt", option1_value="M" * 256, variant_price="3"), "256 characters"),
        (row(handle="shirt", option1_value="M", variant_price="3") + ",more", "20 cells"),
        ('shirt,"quoted" badly', "it is no CSV"),
        (row(handle="shirt", option1_value="M\0", variant_price="3"), "a NUL character"),
        (row(handle="shirt", option1_value="\udce9", variant_price="3"), "it is not UTF-8"),
    ],
)
def test_a_bad_row_is_refused_with_its_line_and_reason_and_costs_nothing_else(
    tmp_path: Path, line: str, reason: str
) -> None:
    products, refused = read(
        tmp_path,
        SHIRT,
        line,
        row(handle="shirt", option1_value="L", variant_price="12"),
        row(handle="hat", title="Hat", variant_price="5"),
    )
    assert [(each.file, each.line) for each in refused] == [("catalogue.csv", 3)]
    assert reason in refused[0].reason
    assert str(refused[0]).startswith("catalogue.csv:3: ")
    assert [product.handle for product in products] == ["shirt", "hat"]
    assert [variant.options[0] for variant in products[0].variants] == ["S", "L"]


def test_a_bad_price_on_a_product_s_first_row_leaves_its_other_variants(tmp_path: Path) -> None:
    products, refused = read(
        tmp_path,
        row(
            handle="cap",
            title="Cap",
            option1_name="Size",
            option1_value="S",
            variant_price="cheap",
        ),
        row(handle="cap", option1_value="M", variant_price="4"),
    )
    assert [each.line for each in refused] == [2]
    assert [variant.options[0] for variant in products[0].variants] == ["M"]


def test_a_product_without_title_is_refused_row_by_row(tmp_path: Path) -> None:
    products, refused = read(
        tmp_path,
        row(handle="cap", variant_price="4"),
        row(handle="cap", option1_value="M", variant_price="4"),
    )
    assert products == []
    assert [each.line for each in refused] == [2, 3]
    assert "has no title" in refused[0].reason
    assert "line 2, was refused" in refused[1].reason


def test_a_product_without_any_price_is_refused_once(tmp_path: Path) -> None:
    products, refused = read(
        tmp_path,
        row(handle="cap", title="Cap", image_src="https://images.example/cap.jpg"),
        row(handle="hat", title="Hat", variant_price="5"),
    )
    assert [product.handle for product in products] == ["hat"]
    assert [(each.line, each.reason) for each in refused] == [(2, "the product 'cap' has no price")]


def test_a_handle_that_comes_back_later_is_refused(tmp_path: Path) -> None:
    products, refused = read(
        tmp_path,
        row(handle="cap", title="Cap", variant_price="4"),
        row(handle="hat", title="Hat", variant_price="5"),
        row(handle="cap", title="Another cap", variant_price="6"),
    )
    assert [(product.handle, product.title) for product in products] == [
        ("cap", "Cap"),
        ("hat", "Hat"),
    ]
    assert [each.line for each in refused] == [4]
    assert "began on line 2" in refused[0].reason


def test_lines_are_counted_over_cells_that_span_lines_and_blank_lines(tmp_path: Path) -> None:
    body = {"body_(html)": "<p>\nTwo\n</p>"}
    _, refused = read(
        tmp_path,
        row(handle="cap", title="Cap", variant_price="4", **body),
        "",
        row(handle="hat", title="Hat", variant_price="free"),
    )
    assert [each.line for each in refused] == [6]


def test_unpublished_and_draft_products_are_inactive(tmp_path: Path) -> None:
    products, refused = read(
        tmp_path,
        row(handle="a", title="A", variant_price="4", published="TRUE") + ",active",
        row(handle="b", title="B", variant_price="4", published="false") + ",active",
        row(handle="c", title="C", variant_price="4") + ",draft",
        row(handle="d", title="D", variant_price="4", published="perhaps"),
        header=HEADER + ",Status",
    )
    assert [(product.handle, product.active) for product in products] == [
        ("a", True),
        ("b", False),
        ("c", False),
    ]
    assert "true or false is accepted" in refused[0].reason


@pytest.mark.parametrize(
    ("currency", "price", "accepted"),
    [("JPY", "500", True), ("JPY", "500.00", True), ("JPY", "9.5", False), ("KWD", "1.005", True)],
)
def test_a_price_has_no_more_decimals_than_the_currency(
    tmp_path: Path, currency: str, price: str, accepted: bool
) -> None:
    line = row(handle="cap", title="Cap", variant_price=price)
    products, refused = read(tmp_path, line, currency=currency)
    assert (len(products), len(refused)) == ((1, 0) if accepted else (0, 1))


def test_the_column_names_of_shopify_s_new_template_are_read(tmp_path: Path) -> None:
    products, refused = read(
        tmp_path,
        "Cap,cap,A cap,true,C-1,Size,M,4.50,3,https://images.example/cap.jpg",
        header="Title,URL handle,Description,Published on online store,SKU,Option1 name,"
        "Option1 value,Price,Inventory quantity,Product image URL",
    )
    assert refused == []
    (cap,) = products
    assert (cap.handle, cap.description, cap.options) == ("cap", "A cap", ("Size",))
    assert (cap.variants[0].sku, cap.variants[0].stock) == ("C-1", 3)


@pytest.mark.parametrize("text", ["", "name,email\nA,b@example.com\n", '"Handle'])
def test_a_file_that_is_no_catalogue_is_refused_whole(tmp_path: Path, text: str) -> None:
    path = tmp_path / "people.csv"
    path.write_text(text)
    with pytest.raises(CatalogueUnreadable, match=r"people\.csv:1"):
        list(read_catalogue(path, currency="USD"))


def test_real_catalogues_are_read_without_a_refused_row(shared_catalogues: list[Path]) -> None:
    for path in shared_catalogues:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = list(csv.DictReader(file))
        found = list(read_catalogue(path, currency="USD"))
        products = [each for each in found if isinstance(each, CatalogueProduct)]
        assert [each for each in found if isinstance(each, RefusedRow)] == []
        assert [each.content.handle for each in products] == list(
            dict.fromkeys(line["Handle"] for line in lines)
        )
        variants = [variant for each in products for variant in each.content.variants]
        assert len(variants) == sum(bool(line["Variant Price"]) for line in lines)
        assert all(variant.sku is None for variant in variants)


@given(
    lines=st.lists(
        st.lists(
            st.one_of(st.text(max_size=20), st.sampled_from(["a", "b", "1.00", "https://x/y"])),
            max_size=21,
        ),
        max_size=8,
    ),
    raw=st.binary(max_size=200),
)
def test_no_input_stops_the_reading(
    tmp_path_factory: pytest.TempPathFactory, lines: list[list[str]], raw: bytes
) -> None:
    path = tmp_path_factory.mktemp("any") / "any.csv"
    with path.open("w", newline="", encoding="utf-8", errors="replace") as file:
        file.write(HEADER + "\r\n")
        csv.writer(file).writerows(lines)
    with path.open("ab") as binary:
        binary.write(raw)
    handles = [
        each.content.handle
        for each in read_catalogue(path, currency="USD")
        if isinstance(each, CatalogueProduct)
    ]
    assert len(handles) == len(set(handles))
