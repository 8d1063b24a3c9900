"""Reading Shopify's product CSV: rows in, whole products and refused rows out. Touches no database.

The format is help.shopify.com, "Using CSV files to import and export products": rows of one
product share a handle and stand together; the first one carries the product, each further one a
variant, an image, or both.
"""

import csv
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from urllib.parse import urlsplit

from jobs.follows.errors import CatalogueUnreadable
from jobs.records.catalogue import ProductContent, VariantContent
from jobs.records.columns import LARGEST_AMOUNT, LARGEST_INTEGER
from jobs.records.money import digits

COLUMNS = {
    "handle": ("handle", "url handle"),
    "title": ("title",),
    "description": ("body (html)", "description"),
    "vendor": ("vendor",),
    "product_type": ("type",),
    "tags": ("tags",),
    "published": ("published", "published on online store"),
    "status": ("status",),
    "option1_name": ("option1 name",),
    "option1": ("option1 value",),
    "option2_name": ("option2 name",),
    "option2": ("option2 value",),
    "option3_name": ("option3 name",),
    "option3": ("option3 value",),
    "sku": ("variant sku", "sku"),
    "stock": ("variant inventory qty", "inventory quantity"),
    "price": ("variant price", "price"),
    "compare_at_price": ("variant compare at price", "compare-at price"),
    "image": ("image src", "product image url"),
    "image_position": ("image position",),
    "image_alt": ("image alt text",),
    "variant_image": ("variant image", "variant image url"),
}
"""What we read, and the names Shopify's exports give it (its old template, then its new one)."""

REQUIRED = ("handle", "title", "price")
OPTIONS = ("option1", "option2", "option3")

_PLAIN_NUMBER = re.compile(r"[0-9]{1,15}(\.[0-9]{0,10})?|\.[0-9]{1,10}")
_WHOLE_NUMBER = re.compile(r"-?[0-9]{1,10}")
LONGEST = {"image": 2048, "variant_image": 2048, "image_alt": 2048}
"""Characters that fit in a cell where it is not 255; descriptions and tags have no limit."""


@dataclass(frozen=True, kw_only=True)
class RefusedRow:
    """A row that was not imported: the line it starts on (the header is line 1), and why."""

    file: str
    line: int
    reason: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.reason}"


@dataclass(frozen=True, kw_only=True)
class CatalogueProduct:
    """A product as the file gives it, and the line it begins on.

    `complete` is False when one of its rows was refused.
    """

    line: int
    content: ProductContent
    complete: bool


class _Refused(Exception):
    """Why a row, or the part of it being read, is not imported."""


def read_catalogue(path: Path, *, currency: str) -> Iterator[CatalogueProduct | RefusedRow]:
    """Yield the products of a Shopify CSV in order, and every refused row as it is met.

    Memory holds one product and all handles. What a refused row carried is left out; what else
    its product has is yielded. Raises CatalogueUnreadable when the file is none of this format.
    """
    gathering = _Gathering(file=path.name, currency=currency)
    for line, cells in _rows(path):
        if isinstance(cells, str):
            yield gathering.refuse(line, cells)
        else:
            yield from gathering.add(line, cells)
    yield from gathering.end()


class _Gathering:
    """The product being gathered row by row, and the handles of those before it."""

    def __init__(self, *, file: str, currency: str) -> None:
        self._file = file
        self._currency = currency
        self._first_lines: dict[str, int] = {}
        self._begin(0, "")

    def add(self, line: int, cells: Mapping[str, str]) -> Iterator[CatalogueProduct | RefusedRow]:
        """Take one row; yield the product that it ends, and the row itself if it is refused."""
        handle = cells["handle"]
        if handle and handle != self._handle:
            yield from self.end()
            self._begin(line, handle)
        try:
            if not handle:
                raise _Refused("it has no handle")
            self._take(line, cells)
        except _Refused as refused:
            yield self.refuse(line, str(refused))

    def refuse(self, line: int, reason: str) -> RefusedRow:
        """Return one refused row; the product it stands in is no longer complete."""
        self._complete = False
        return RefusedRow(file=self._file, line=line, reason=reason)

    def end(self) -> Iterator[CatalogueProduct | RefusedRow]:
        """Yield the product gathered so far, if there is one and it has something to sell."""
        if self._product is None:
            return
        if self._variants:
            yield CatalogueProduct(
                line=self._line,
                content=replace(
                    self._product,
                    variants=tuple(self._variants.values()),
                    images=_in_order(self._images),
                ),
                complete=self._complete,
            )
        elif self._complete:
            yield self.refuse(self._line, f"the product {self._handle!r} has no price")

    def _begin(self, line: int, handle: str) -> None:
        self._line = line
        self._handle = handle
        self._product: ProductContent | None = None
        self._variants: dict[tuple[str, str, str], VariantContent] = {}
        self._images: list[tuple[int, str, str]] = []
        self._complete = True

    def _take(self, line: int, cells: Mapping[str, str]) -> None:
        first = self._first_lines.setdefault(self._handle, line)
        if first != self._line:
            raise _Refused(
                f"the rows of {self._handle!r} began on line {first}; keep them together"
            )
        _check_lengths(cells)
        if line == self._line:
            self._product = _product(cells)
        if self._product is None:
            raise _Refused(f"the first row of {self._handle!r}, line {first}, was refused")
        image = _image(cells)
        variant = _variant(cells, names=self._product.options, currency=self._currency)
        if variant is not None:
            if variant.options in self._variants:
                raise _Refused(f"the variant {_label(variant.options)} is there twice")
            self._variants[variant.options] = variant
        if image is not None:
            self._images.append(image)
        if image is None and variant is None and line != self._line:
            raise _Refused("it has neither a variant's price nor an image")


def _rows(path: Path) -> Iterator[tuple[int, dict[str, str] | str]]:
    """Yield each row as (line, cells by our names), or (line, why it can't be read)."""
    # A byte that is not UTF-8 becomes a lone surrogate, so that it costs its row, not the file.
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        reader = csv.reader(file, strict=True)
        try:
            header = next(reader, [])
        except csv.Error as error:
            raise CatalogueUnreadable(f"{path.name}:1: the header is no CSV: {error}") from None
        places = _places(header, file=path.name)
        while True:
            line = reader.line_num + 1
            try:
                row = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield line, f"it is no CSV: {error}"
                continue
            if any(cell.strip() for cell in row):
                yield line, _cells(row, places=places, width=len(header))


def _places(header: list[str], *, file: str) -> dict[str, int]:
    found = {name.strip().lower(): place for place, name in reversed(list(enumerate(header)))}
    places = {
        ours: found[name] for ours, names in COLUMNS.items() for name in names if name in found
    }
    missing = [COLUMNS[name][0] for name in REQUIRED if name not in places]
    if missing:
        raise CatalogueUnreadable(
            f"{file}:1: this is no Shopify product CSV: the header lacks {', '.join(missing)}"
        )
    return places


def _cells(row: list[str], *, places: Mapping[str, int], width: int) -> dict[str, str] | str:
    if len(row) > width:
        return f"it has {len(row)} cells, the header {width}"
    cells = dict.fromkeys(COLUMNS, "")
    for name, place in places.items():
        if place < len(row):
            cells[name] = row[place].strip()
    text = "".join(cells.values())
    if "\0" in text:
        return "it contains a NUL character"
    if any("\ud800" <= character <= "\udfff" for character in text):
        return "it is not UTF-8"
    return cells


def _product(cells: Mapping[str, str]) -> ProductContent:
    if not cells["title"]:
        raise _Refused(f"the first row of {cells['handle']!r} has no title")
    named = [cells[f"{option}_name"] for option in OPTIONS]
    return ProductContent(
        handle=cells["handle"],
        title=cells["title"],
        description=cells["description"],
        vendor=cells["vendor"],
        product_type=cells["product_type"],
        tags=tuple(tag.strip() for tag in cells["tags"].split(",") if tag.strip()),
        options=tuple(name for name in named if name),
        active=_is_active(cells),
    )


def _is_active(cells: Mapping[str, str]) -> bool:
    published = cells["published"].lower()
    if published not in ("", "true", "false"):
        raise _Refused(f"published is {cells['published']!r}; true or false is accepted")
    status = cells["status"].lower()
    if status not in ("", "active", "draft", "archived"):
        raise _Refused(f"status is {cells['status']!r}; active, draft or archived is accepted")
    return published != "false" and status in ("", "active")


def _check_lengths(cells: Mapping[str, str]) -> None:
    for name, value in cells.items():
        longest = LONGEST.get(name, 255)
        if len(value) > longest and name not in ("description", "tags"):
            raise _Refused(f"{COLUMNS[name][0]} has {len(value)} characters; {longest} fit")


def _variant(
    cells: Mapping[str, str], *, names: tuple[str, ...], currency: str
) -> VariantContent | None:
    first, second, third = (cells[option] for option in OPTIONS)
    if not cells["price"]:
        if first or second or third:
            raise _Refused("the variant has no price")
        return None
    for name, value in zip(names, (first, second, third), strict=False):
        if not value:
            raise _Refused(f"the variant has no value for option {name!r}")
    return VariantContent(
        options=(first, second, third),
        price=_amount(cells["price"], what="price", currency=currency),
        compare_at_price=(
            _amount(cells["compare_at_price"], what="compare at price", currency=currency)
            if cells["compare_at_price"]
            else None
        ),
        sku=cells["sku"] or None,
        stock=_whole(cells["stock"] or "0", what="inventory quantity"),
        image=_address(cells["variant_image"], what="variant image") or None,
    )


def _amount(text: str, *, what: str, currency: str) -> Decimal:
    places = digits(currency)
    amount = Decimal(text) if _PLAIN_NUMBER.fullmatch(text) else None
    if amount is None or amount >= LARGEST_AMOUNT or amount != round(amount, places):
        raise _Refused(
            f"{what} is {text!r}; a number from 0 with at most {places} decimals, "
            f"as {currency} has them, is accepted"
        )
    return amount


def _whole(text: str, *, what: str) -> int:
    number = int(text) if _WHOLE_NUMBER.fullmatch(text) else None
    if number is None or abs(number) > LARGEST_INTEGER:
        raise _Refused(f"{what} is {text!r}; a whole number is accepted")
    return number


def _image(cells: Mapping[str, str]) -> tuple[int, str, str] | None:
    if not cells["image"]:
        return None
    # Shopify puts images without a position behind those that have one.
    position = (
        _whole(cells["image_position"], what="image position")
        if cells["image_position"]
        else LARGEST_INTEGER
    )
    return position, _address(cells["image"], what="image"), cells["image_alt"]


def _in_order(images: list[tuple[int, str, str]]) -> tuple[tuple[str, str], ...]:
    by_source = {src: alt for _, src, alt in sorted(images, key=lambda image: image[0])}
    return tuple(by_source.items())


def _address(text: str, *, what: str) -> str:
    if not text:
        return ""
    try:
        parts = urlsplit(text)
    except ValueError:
        parts = urlsplit("")
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise _Refused(f"{what} is {text!r}; an address that begins with http(s):// is accepted")
    return text


def _label(options: tuple[str, str, str]) -> str:
    return " / ".join(repr(value) for value in options if value) or "without options"
