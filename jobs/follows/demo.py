"""Demo data: twelve shops with products, the same in every installation."""

from decimal import Decimal
from random import Random

from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from jobs.records import Plan, Shop, db, writing
from jobs.records.catalogue import ProductContent, VariantContent, put_products

SHOPS = (
    ("Alpine Outfitters", 128),
    ("Bean & Leaf", 24),
    ("Candle Corner", 18),
    ("Desk Dept.", 30),
    ("Étagère & Fils", 21),
    ("Fjord Knitwear", 36),
    ("Green Thumb Nursery", 27),
    ("Hammer & Sons", 33),
    ("Ink/Paper", 15),
    ("Jolly Toys", 40),
    ("Kitchen Kōbō", 22),
    ("Lantern & Light", 19),
)
"""Name and number of products; the ids are 1 to 12."""

PREMIUM = frozenset({3, 6, 9, 12})

ADJECTIVES = ("Amber", "Birch", "Cobalt", "Dusty", "Early", "Fir", "Granite", "Hollow", "Ivory")
NOUNS = ("Jacket", "Lamp", "Mug", "Notebook", "Pot", "Rug", "Scarf", "Stool", "Tent", "Vase", "Cap")
SIZES = ("S", "M", "L", "XL")
COLOURS = ("Red", "Blue", "Sand")

ODD_TITLES = (
    "Crème brûlée torch — 2-in-1",
    '<b>Bold</b> & "quoted" mug',
    "日本茶 急須 (kyūsu)",
    "Emoji lamp 🪔✨",
    "O'Neill's 5% off; DROP TABLE socks",
    "  Padded  with   spaces  ",
    "ﬁligree ring with an unusually long name, " + "very " * 30 + "long",
    "قميص أزرق",
)


def fill_empty_database() -> int:
    """Make the demo shops and products if there is no shop yet; return how many shops it made."""
    with writing() as session:
        if session.scalar(select(func.count()).select_from(Shop)):
            return 0
        for shop_id, (name, _) in enumerate(SHOPS, 1):
            plan = Plan.PREMIUM if shop_id in PREMIUM else Plan.FREE
            session.add(Shop(id=shop_id, name=name, currency="USD", plan=plan))
        session.flush()
        _move_sequence(session)
        for shop_id, (_, count) in enumerate(SHOPS, 1):
            put_products(session, demo_products(shop_id, count), shop_id=shop_id)
    return len(SHOPS)


def demo_products(shop_id: int, count: int) -> list[ProductContent]:
    """Return `count` products, the same on every call; some have odd names and many variants."""
    random = Random(shop_id)  # noqa: S311 (for show, not for secrets)
    return [_product(number, shop_id=shop_id, random=random) for number in range(1, count + 1)]


def _product(number: int, *, shop_id: int, random: Random) -> ProductContent:
    noun = random.choice(NOUNS)
    title = f"{random.choice(ADJECTIVES)} {noun} {number}"
    if number % 15 == 0:
        title = ODD_TITLES[number // 15 % len(ODD_TITLES)]
    price = Decimal(random.randrange(199, 24_999)).scaleb(-2)
    return ProductContent(
        handle=f"{noun.lower()}-{shop_id}-{number}",
        title=title,
        description=f"<p>{title.strip()}, made to last.</p>",
        vendor=SHOPS[shop_id - 1][0],
        product_type=noun,
        tags=tuple(sorted(random.sample(("new", "gift", "sale", "handmade", "classic"), 2))),
        options=_options(number),
        images=tuple(
            (f"https://images.example/{shop_id}/{number}-{view}.jpg", f"{noun}, {view}")
            for view in ("front", "back", "detail")[: 1 + number % 3]
        ),
        variants=_variants(number, price=price, shop_id=shop_id, random=random),
    )


def _options(number: int) -> tuple[str, ...]:
    return ("Size", "Color")[: number % 3] or ("Title",)


def _variants(
    number: int, *, price: Decimal, shop_id: int, random: Random
) -> tuple[VariantContent, ...]:
    sizes = SIZES if number % 3 else ("Default Title",)
    colours = COLOURS if number % 3 == 2 else ("",)
    return tuple(
        VariantContent(
            options=(size, colour, ""),
            price=price + place,
            compare_at_price=price * 2 if number % 7 == 0 else None,
            sku=f"D{shop_id}-{number}-{place}" if number % 2 else None,
            stock=random.randrange(0, 50),
        )
        for place, (size, colour) in enumerate(
            (size, colour) for size in sizes for colour in colours
        )
    )


def _move_sequence(session: Session) -> None:
    # PostgreSQL's own counter doesn't see ids that are given.
    if db.engine.dialect.name == "postgresql":
        session.execute(
            text("SELECT setval(pg_get_serial_sequence('shops', 'id'), :last)"),
            {"last": len(SHOPS)},
        )
