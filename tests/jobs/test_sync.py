"""Copying one shop's catalogue to another, on both databases."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from decimal import Decimal
from typing import Any, NamedTuple

import pytest
from flask import Flask
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, Table, event, func, insert, select

from jobs.follows.errors import FollowNotFound, NothingToSync
from jobs.follows.sync import SyncResult, sync_all_products_for_follow
from jobs.records import Base, FollowMode, Product, db, writing
from tests.jobs.conftest import empty_tables
from tests.jobs.shops import (
    State,
    a_product,
    change_product,
    make_follow,
    make_shop,
    products_of,
    remove_product,
    state_of,
    stock_shop,
)

pytestmark = pytest.mark.usefixtures("app")


@pytest.fixture
def source(app: Flask) -> int:
    """A shop with 25 products of two variants each."""
    shop = make_shop("Source")
    stock_shop(shop, [a_product(number) for number in range(25)])
    return shop


@pytest.fixture
def follow(source: int) -> int:
    """A follow of that shop with a markup of 20 per cent."""
    return make_follow(make_shop("Follower"), source)


def follower_of(follow_id: int) -> dict[str, list[Decimal]]:
    """The prices of the follower's products, by handle."""
    return {
        handle: [variant.price for variant in product.variants]
        for handle, product in state_of(follow_id).products.items()
    }


def test_every_product_is_copied_with_the_markup(follow: int) -> None:
    assert sync_all_products_for_follow(follow) == SyncResult(synced=25)
    copies = state_of(follow).products
    assert len(copies) == 25
    assert copies["product-3"].images == (("https://images.example/3.jpg", "front"),)
    assert [variant.price for variant in copies["product-3"].variants] == [
        Decimal("12.00"),
        Decimal("13.20"),
    ]
    assert [variant.stock for variant in copies["product-3"].variants] == [0, 1]


def test_prices_are_rounded_to_the_currency_of_the_shops() -> None:
    source = make_shop("Tokyo", currency="JPY")
    stock_shop(source, [a_product(1, price="15")])
    follow = make_follow(make_shop("Osaka", currency="JPY"), source, markup="10")
    sync_all_products_for_follow(follow)
    assert follower_of(follow) == {"product-1": [Decimal(17), Decimal(18)]}


def test_unchanged_products_are_skipped_and_not_written(follow: int) -> None:
    sync_all_products_for_follow(follow)
    before = db.session.execute(select(Product.id, Product.updated_at)).all()
    assert sync_all_products_for_follow(follow) == SyncResult(skipped=25)
    assert db.session.execute(select(Product.id, Product.updated_at)).all() == before


def test_changes_at_the_source_are_carried_over(follow: int, source: int) -> None:
    sync_all_products_for_follow(follow)
    change_product(source, "product-1", title="Renamed")
    change_product(source, "product-2", variants=a_product(2, price="20").variants)
    change_product(source, "product-3", variants=a_product(3).variants[:1])
    stock_shop(source, [a_product(100)])
    assert sync_all_products_for_follow(follow) == SyncResult(synced=4, skipped=22)
    copies = state_of(follow).products
    assert copies["product-1"].title == "Renamed"
    assert [each.price for each in copies["product-2"].variants] == [Decimal(24), Decimal("25.2")]
    assert len(copies["product-3"].variants) == 1
    assert len(copies) == 26


def test_what_is_gone_at_the_source_is_deactivated_and_comes_back(follow: int, source: int) -> None:
    sync_all_products_for_follow(follow)
    remove_product(source, "product-1")
    change_product(source, "product-2", active=False)
    assert sync_all_products_for_follow(follow) == SyncResult(synced=2, skipped=23)
    copies = state_of(follow).products
    assert [handle for handle, copy in copies.items() if not copy.active] == [
        "product-1",
        "product-2",
    ]
    assert sync_all_products_for_follow(follow) == SyncResult(skipped=23)
    stock_shop(source, [a_product(1)])
    change_product(source, "product-2", active=True)
    assert sync_all_products_for_follow(follow) == SyncResult(synced=2, skipped=23)
    copies = state_of(follow).products
    assert len(copies) == 25
    assert all(copy.active for copy in copies.values())


def test_a_copy_that_was_changed_or_deleted_is_repaired(follow: int) -> None:
    sync_all_products_for_follow(follow)
    before = state_of(follow).products
    follower = db.session.scalars(select(Product).where(Product.follow_id == follow)).first()
    assert follower is not None
    shop = follower.shop_id
    remove_product(shop, "product-1")
    with db.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE products SET title = 'x' WHERE handle = 'product-2'")
    # The source's product of that name was changed too; both sides agree, nothing is to do there.
    assert sync_all_products_for_follow(follow) == SyncResult(synced=1, skipped=24)
    with db.engine.begin() as connection:
        connection.exec_driver_sql(
            f"UPDATE variants SET price = 1 WHERE product_id IN "
            f"(SELECT id FROM products WHERE shop_id = {shop} AND handle = 'product-5')"
        )
    assert sync_all_products_for_follow(follow) == SyncResult(synced=1, skipped=24)
    after = state_of(follow).products
    assert after["product-5"] == before["product-5"]
    assert after["product-1"] == before["product-1"]


def test_one_product_s_error_is_counted_and_kept_and_the_rest_is_copied(
    follow: int, source: int
) -> None:
    change_product(source, "product-7", variants=a_product(7, price="99999999999990.00").variants)
    assert sync_all_products_for_follow(follow) == SyncResult(synced=24, errors=1)
    state = state_of(follow)
    assert "product-7" not in state.products
    ((handle, copy, error),) = [row for row in state.synced if row[2]]
    assert (handle, copy) == ("product-7", None)
    assert error is not None
    assert "119999999999988.00 is no amount below" in error
    assert sync_all_products_for_follow(follow) == SyncResult(skipped=24, errors=1)
    change_product(source, "product-7", variants=a_product(7).variants)
    assert sync_all_products_for_follow(follow) == SyncResult(synced=1, skipped=24)
    assert not [row for row in state_of(follow).synced if row[2]]


def test_a_product_that_can_t_be_read_costs_only_itself(
    follow: int, source: int, database: str
) -> None:
    if not database.startswith("sqlite"):
        return  # PostgreSQL refuses such a value in the first place
    with db.engine.begin() as connection:
        connection.exec_driver_sql(
            f"UPDATE variants SET price = 'much' WHERE product_id = "
            f"(SELECT id FROM products WHERE shop_id = {source} AND handle = 'product-7')"
        )
    assert sync_all_products_for_follow(follow) == SyncResult(synced=24, errors=1)


def test_an_error_about_a_copied_product_leaves_the_copy(follow: int, source: int) -> None:
    sync_all_products_for_follow(follow)
    before = state_of(follow).products
    change_product(source, "product-7", variants=a_product(7, price="99999999999990.00").variants)
    assert sync_all_products_for_follow(follow) == SyncResult(skipped=24, errors=1)
    assert state_of(follow).products == before
    remove_product(source, "product-7")
    assert sync_all_products_for_follow(follow) == SyncResult(synced=1, skipped=24)
    assert state_of(follow).products["product-7"].active is False


def test_a_handle_the_follower_uses_already_is_left_alone(source: int) -> None:
    follower = make_shop("Follower")
    own = replace(a_product(1), title="My own")
    stock_shop(follower, [own])
    other = make_shop("Other source")
    stock_shop(other, [a_product(1), a_product(2)])
    first, second = make_follow(follower, source), make_follow(follower, other)
    sync_all_products_for_follow(first)
    sync_all_products_for_follow(second)
    products = products_of(follower)
    assert products["product-1"] == own
    assert {f"product-1-{source}", f"product-1-{other}", f"product-2-{other}"} <= set(products)
    assert len(products) == 1 + 25 + 2
    assert sync_all_products_for_follow(first) == SyncResult(skipped=25)
    assert sync_all_products_for_follow(second) == SyncResult(skipped=2)


def test_handles_made_up_for_copies_are_never_used_twice(app: Flask) -> None:
    source, follower = make_shop("Source"), make_shop("Follower")
    long = "x" * 255
    stock_shop(
        source,
        [
            replace(a_product(1), handle="a"),
            replace(a_product(2), handle=f"a-{source}"),
            replace(a_product(3), handle=long),
        ],
    )
    stock_shop(follower, [replace(a_product(1), handle="a"), replace(a_product(1), handle=long)])
    follow = make_follow(follower, source)
    assert sync_all_products_for_follow(follow) == SyncResult(synced=3)
    assert len(products_of(follower)) == 5
    assert sync_all_products_for_follow(follow) == SyncResult(skipped=3)


def test_shops_that_follow_each_other_do_not_copy_copies() -> None:
    one, two = make_shop("One"), make_shop("Two")
    stock_shop(one, [a_product(1)])
    stock_shop(two, [a_product(2)])
    there, back = make_follow(one, two), make_follow(two, one)
    for _ in range(3):
        sync_all_products_for_follow(there)
        sync_all_products_for_follow(back)
    assert set(products_of(one)) == set(products_of(two)) == {"product-1", "product-2"}


def test_a_follow_that_copies_nothing_is_refused(source: int) -> None:
    monitor = make_follow(make_shop("Watcher"), source, mode=FollowMode.MONITOR)
    abroad = make_follow(make_shop("Tokyo", currency="JPY"), source)
    with pytest.raises(NothingToSync, match="only monitors"):
        sync_all_products_for_follow(monitor)
    with pytest.raises(NothingToSync, match=r"USD.*JPY"):
        sync_all_products_for_follow(abroad)
    with pytest.raises(FollowNotFound, match="999"):
        sync_all_products_for_follow(999)


def test_an_empty_catalogue_is_synced_at_once() -> None:
    follow = make_follow(make_shop("Follower"), make_shop("Source"))
    percents: list[int] = []
    assert (
        sync_all_products_for_follow(
            follow, report=lambda percent, message: percents.append(percent)
        )
        == SyncResult()
    )
    assert percents == [0, 10, 90, 100]


def test_progress_goes_from_0_over_10_and_90_to_100_and_never_falls(
    follow: int, source: int
) -> None:
    stock_shop(source, [a_product(number) for number in range(25, 130)])
    percents: list[int] = []
    sync_all_products_for_follow(follow, report=lambda percent, message: percents.append(percent))
    assert percents[:2] == [0, 10]
    assert percents[-2:] == [90, 100]
    assert percents == sorted(percents)
    assert len(set(percents)) >= 10


def test_nothing_is_reported_inside_a_transaction(follow: int) -> None:
    def report(percent: int, message: str) -> None:
        assert not db.session().in_transaction()

    sync_all_products_for_follow(follow, report=report)


class Killed(BaseException):
    """Stands for the end of the process."""


@contextmanager
def killed_at_write(number: int) -> Iterator[Callable[[], int]]:
    """Raise Killed instead of a write, or of a commit after writes; yields the count so far.

    Whatever is read in between leaves the database as it is.
    """
    count = 0
    has_written = False

    def step() -> None:
        nonlocal count
        count += 1
        if count == number:
            raise Killed

    def on_execute(connection: Connection, cursor: object, statement: str, *_: object) -> None:
        nonlocal has_written
        if statement.startswith(("INSERT", "UPDATE", "DELETE")):
            has_written = True
            step()

    def on_commit(connection: Connection) -> None:
        nonlocal has_written
        if has_written:
            has_written = False
            step()

    event.listen(db.engine, "before_cursor_execute", on_execute)
    event.listen(db.engine, "commit", on_commit)
    try:
        yield lambda: count
    finally:
        event.remove(db.engine, "before_cursor_execute", on_execute)
        event.remove(db.engine, "commit", on_commit)


def a_changed_catalogue() -> int:
    """A follow that has copied a catalogue which then changed in every way; its id."""
    source, follower = make_shop("Source"), make_shop("Follower")
    stock_shop(source, [a_product(number) for number in range(24)])
    stock_shop(follower, [replace(a_product(30), title="My own")])
    follow = make_follow(follower, source)
    sync_all_products_for_follow(follow, run_id="before")
    remove_product(source, "product-1")
    change_product(source, "product-2", active=False)
    change_product(source, "product-3", variants=a_product(3).variants[:1])
    change_product(source, "product-4", variants=a_product(4, price="99999999999990").variants)
    change_product(source, "product-15", title="Renamed")
    stock_shop(source, [a_product(number) for number in range(25, 36)])
    return follow


class OneRun(NamedTuple):
    """One run on the changed catalogue: what it finds, leaves, returns, and its steps."""

    follow: int
    before: list[tuple[Table, list[dict[str, Any]]]]
    after: State
    result: SyncResult
    steps: int

    def undo(self) -> None:
        """Put every row back as the run found it."""
        empty_tables()
        with writing() as session:
            for table, rows in self.before:
                if rows:
                    session.execute(insert(table), rows)


@pytest.fixture
def one_run(app: Flask) -> OneRun:
    """One run that nothing disturbed."""
    follow = a_changed_catalogue()
    with db.engine.connect() as connection:
        before = [
            (table, [dict(row) for row in connection.execute(select(table)).mappings()])
            for table in Base.metadata.sorted_tables
        ]
    with killed_at_write(0) as count:
        result = sync_all_products_for_follow(follow, run_id="run")
        steps = count()
    return OneRun(follow, before, state_of(follow), result, steps)


def test_killed_at_any_point_and_run_again_it_ends_as_one_run(one_run: OneRun) -> None:
    follow = one_run.follow
    assert one_run.result == SyncResult(synced=15, skipped=19, errors=1)
    assert one_run.steps > 20
    for number in range(1, one_run.steps + 1):
        one_run.undo()
        with killed_at_write(number), pytest.raises(Killed):
            sync_all_products_for_follow(follow, run_id="run")
        db.session.remove()
        assert sync_all_products_for_follow(follow, run_id="run") == one_run.result, number
        assert state_of(follow) == one_run.after, number


@settings(
    max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(kills=st.lists(st.integers(1, 30), max_size=4))
def test_killed_several_times_it_still_ends_as_one_run(one_run: OneRun, kills: list[int]) -> None:
    follow = one_run.follow
    one_run.undo()
    for number in kills:
        with killed_at_write(number):
            try:
                sync_all_products_for_follow(follow, run_id="run")
            except Killed:
                db.session.remove()
    assert sync_all_products_for_follow(follow, run_id="run") == one_run.result
    assert state_of(follow) == one_run.after


def test_every_product_is_there_once(follow: int) -> None:
    sync_all_products_for_follow(follow)
    twice = db.session.execute(
        select(Product.shop_id, Product.title)
        .group_by(Product.shop_id, Product.title)
        .having(func.count() > 1)
    ).all()
    assert twice == []
