"""The application's home page in a real browser: a follow is made, and its bar moves."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from playwright.sync_api import Page, expect
from redis import Redis

from jobs.application import create_app
from jobs.records import db
from jobs.settings import Settings
from jobserver.testing import work
from tests.browser.conftest import Serve

pytestmark = pytest.mark.browser

TOKEN = "a-token-for-tests"

Picture = Callable[[Page, str], Path]


@pytest.fixture
def application(valkey: str, redis: Redis[Any], tmp_path: Path) -> Iterator[Flask]:
    """The application with its demo data, and a sync that takes its time."""
    settings = Settings(
        redis_url=valkey,
        database_url=f"sqlite:///{tmp_path}/application.db",
        instance_path=tmp_path,
        admin_token=TOKEN,
        secret_key="a-key-for-tests",
        sync_batch_pause=0.2,
    )
    app = create_app(settings)
    for command in (["db", "upgrade"], ["jobs", "migrate"], ["follows", "demo"]):
        done = app.test_cli_runner().invoke(args=command)
        assert done.exit_code == 0, done.output
    with app.app_context():
        yield app
        db.session.remove()
        db.engine.dispose()
        app.extensions["jobserver"].broker.connection.close()


@pytest.fixture
def home(page: Page, application: Flask, serve: Serve) -> Page:
    """The home page of a visitor who has signed in."""
    page.goto(f"{serve(application)}/")
    page.get_by_label("Token").fill(TOKEN)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("heading", name="Product sync")).to_be_visible()
    return page


@pytest.fixture
def worker(application: Flask) -> Iterator[Callable[[], None]]:
    """Starts one that runs what waits, beside the test."""
    started: list[threading.Thread] = []

    def run() -> None:
        with application.app_context():
            work()

    def start() -> None:
        thread = threading.Thread(target=run)
        thread.start()
        started.append(thread)

    yield start
    for thread in started:
        thread.join()


def test_a_follow_is_made_and_its_bar_moves_to_the_end(
    home: Page, worker: Callable[[], None], picture: Picture
) -> None:
    expect(home.get_by_text("No shop follows another yet.")).to_be_visible()
    home.get_by_label("Markup in per cent").fill("12.5")
    home.get_by_role("button", name="Follow").click()
    row = home.locator("li.follow")
    expect(row).to_contain_text("Waiting")
    picture(home, "home-waiting")
    home.evaluate(
        """() => {
            const bar = document.querySelector("li.follow progress");
            window.seen = [bar.value];
            new MutationObserver(() => window.seen.push(bar.value))
              .observe(bar, { attributes: true });
        }"""
    )
    worker()
    expect(row).to_contain_text("Syncing")
    expect(row.get_by_role("progressbar")).not_to_have_js_property("value", 0)
    picture(home, "home-syncing")
    expect(row).to_contain_text("Completed", timeout=30_000)
    expect(row).to_contain_text("0 errors")
    picture(home, "home-completed")
    seen = home.evaluate("window.seen")
    assert seen == sorted(seen)
    assert len(set(seen)) >= 3
    home.reload()
    expect(home.locator("li.follow")).to_contain_text("Completed")


def test_wrong_input_is_named_where_it_stands(home: Page, picture: Picture) -> None:
    home.get_by_label("Markup in per cent").fill("501")
    home.get_by_label("Source shop").select_option(index=1)
    home.get_by_role("button", name="Follow").click()
    expect(home.get_by_label("Markup in per cent")).to_have_attribute("aria-invalid", "true")
    picture(home, "home-refused")
    home.complaints.clear()  # type: ignore[attr-defined]  # the 422 itself
    expect(home.locator("li.follow")).to_have_count(0)


def test_home_fits_a_phone_in_the_dark(home: Page, picture: Picture) -> None:
    home.emulate_media(color_scheme="dark")
    home.set_viewport_size({"width": 360, "height": 740})
    picture(home, "home-dark")
    assert home.evaluate("document.documentElement.scrollWidth") <= 360


def test_home_leads_to_the_queues_and_out(home: Page) -> None:
    home.get_by_role("link", name="Queues").click()
    expect(home.get_by_role("heading", name="Queues")).to_be_visible()
    home.go_back()
    home.get_by_role("button", name="Sign out").click()
    expect(home).to_have_title("Sign in · Job server")
