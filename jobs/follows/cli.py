"""`flask follows …`: importing catalogues, and demo data."""

from pathlib import Path

import click
from sqlalchemy import select

from jobs.commands import Commands
from jobs.follows.catalogue import import_catalogue
from jobs.follows.demo import fill_empty_database
from jobs.follows.lookup import find_shop
from jobs.records import Shop, writing

commands = Commands("follows", help="Import catalogues, load demo data.")


@commands.command("import-catalogue")
@click.argument("shop")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--currency", default="USD", show_default=True, help="Currency of a shop that is made new."
)
def import_command(*, shop: str, file: Path, currency: str) -> None:
    """Import a Shopify product CSV into SHOP, the id of a shop or a name.

    A name that no shop has makes a new shop. Rows that can't be imported are named with file,
    line and reason; the others are imported.
    """
    report = import_catalogue(
        _shop_id(shop, currency=currency),
        file,
        on_refused=lambda row: click.echo(str(row), err=True),
    )
    click.echo(
        f"{file.name}: {report.created} products created, {report.updated} updated, "
        f"{report.variants} variants; {report.refused} rows refused"
    )


@commands.command("demo")
def demo_command() -> None:
    """Load demo shops and products into an empty database; leave any other as it is."""
    made = fill_empty_database()
    click.echo(f"Demo data: {made} shops made." if made else "Demo data: there are shops already.")


def _shop_id(text: str, *, currency: str) -> int:
    if text.isascii() and text.isdigit():
        return find_shop(int(text[:20])).id
    with writing() as session:
        shop = session.scalar(select(Shop).where(Shop.name == text))
        if shop is None:
            if not (len(currency) == 3 and currency.isascii() and currency.isupper()):
                raise click.BadParameter(f"{currency!r} is no currency; use three letters like USD")
            shop = Shop(name=text, currency=currency)
            session.add(shop)
            session.flush()
            click.echo(f"Made shop {shop.id}, {text!r}, which sells in {currency}.")
        return shop.id
