"""Sign-in and rq-dashboard in a real browser."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import rq
from flask import Flask
from playwright.sync_api import Page, expect
from redis import Redis

from jobserver.testing import work
from tests.integration.web.conftest import MakeShop
from tests.integration.web.shop import TOKEN, claim, send_letter

pytestmark = pytest.mark.browser

SCRIPT = "<script>alert('description')</script><img src=x onerror=alert('image')>"

Picture = Callable[[Page, str], Path]


@pytest.fixture
def shop(make_shop: MakeShop) -> Iterator[Flask]:
    """A shop, inside its app context."""
    app = make_shop()
    with app.app_context():
        yield app


@pytest.fixture
def site(shop: Flask, serve: Callable[[Flask], str]) -> str:
    """The address of the shop's job server."""
    return f"{serve(shop)}/engine"


@pytest.fixture
def signed_in(page: Page, site: str) -> Page:
    """A page whose visitor has signed in."""
    page.goto(f"{site}/sign-in")
    page.get_by_label("Token").fill(TOKEN)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url("**/rq/")
    return page


def test_a_visitor_signs_in_lands_where_he_wanted_and_signs_out(
    page: Page, site: str, picture: Picture
) -> None:
    wanted = f"{site}/rq/0/view/workers"
    page.goto(wanted)
    expect(page).to_have_title("Sign in · Job server")
    expect(page.get_by_label("Token")).to_be_focused()
    picture(page, "sign-in")
    page.keyboard.type("wrong")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_have_text("This token is not valid.")
    picture(page, "sign-in-refused")
    page.complaints.clear()  # type: ignore[attr-defined]  # the 401 itself
    page.keyboard.type(TOKEN)
    page.keyboard.press("Enter")
    expect(page).to_have_url(wanted)
    page.get_by_role("button", name="Sign out").click()
    expect(page).to_have_title("Sign in · Job server")
    page.goto(wanted)
    expect(page).to_have_title("Sign in · Job server")


def test_sign_in_reads_well_in_the_dark_and_on_a_phone(
    page: Page, site: str, picture: Picture
) -> None:
    page.emulate_media(color_scheme="dark")
    page.set_viewport_size({"width": 360, "height": 640})
    page.goto(f"{site}/sign-in")
    picture(page, "sign-in-dark")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_queues_lead_to_their_jobs(signed_in: Page, picture: Picture) -> None:
    for number in range(20):
        send_letter.enqueue(to=f"n{number:02}")
    row = signed_in.get_by_role("row", name="mail")
    expect(row).to_contain_text("20")
    picture(signed_in, "queues")
    row.get_by_role("link", name="20").click()
    expect(signed_in.locator("tr[data-role=job]")).to_have_count(8)
    signed_in.get_by_role("link", name="3", exact=True).click()
    expect(signed_in.locator("tr[data-role=job]")).to_have_count(4)
    picture(signed_in, "jobs")
    signed_in.get_by_label("Registry").select_option("rate_limited")
    expect(signed_in.get_by_text("No jobs.")).to_be_visible()
    signed_in.get_by_label("Per page").fill("3")
    signed_in.get_by_label("Registry").select_option("queued")
    expect(signed_in.locator("tr[data-role=job]")).to_have_count(3)


def test_a_failed_job_shows_its_traceback(signed_in: Page, site: str, picture: Picture) -> None:
    job = send_letter.enqueue(to="ada", text="illegal")
    work()
    signed_in.goto(f"{site}/rq/0/view/jobs/mail/failed/8/asc/1")
    expect(signed_in.get_by_text("no such street")).to_be_visible()
    signed_in.get_by_role("link", name=job.id).click()
    expect(signed_in.get_by_text("no such street")).to_be_visible()
    expect(signed_in.get_by_text('"to": "ada"')).to_be_visible()
    expect(signed_in.get_by_role("button", name="Delete")).to_have_count(0)
    expect(signed_in.get_by_role("button", name="Requeue")).to_have_count(0)
    picture(signed_in, "job-failed")


def test_a_script_in_a_description_is_text(
    signed_in: Page, site: str, redis: Redis[Any], picture: Picture
) -> None:
    job = rq.Queue("mail", connection=redis, serializer="json").enqueue(
        "builtins.print", SCRIPT, description=SCRIPT, job_id="bad", meta={"note": SCRIPT}
    )
    signed_in.goto(f"{site}/rq/0/view/job/{job.id}")
    expect(signed_in.locator(".description-scroll")).to_have_text(SCRIPT)
    picture(signed_in, "job-script")
    signed_in.goto(f"{site}/rq/0/view/jobs/mail/queued/8/asc/1")
    expect(signed_in.locator(".description")).to_have_text(SCRIPT)
    assert signed_in.locator("td img").count() == 0


def test_a_script_in_a_queues_name_is_text(signed_in: Page, site: str, redis: Redis[Any]) -> None:
    rq.Queue("<img src=x onerror=alert(1)>", connection=redis).enqueue("builtins.print")
    signed_in.goto(f"{site}/rq/")
    expect(signed_in.get_by_role("cell", name="<img src=x onerror=alert(1)>")).to_be_visible()
    signed_in.goto(f"{site}/rq/0/view/jobs/'-alert(1)-'/queued/8/asc/1")
    expect(signed_in.get_by_text("No jobs.")).to_be_visible()
    signed_in.locator("#select-queue").click()
    signed_in.locator("#select-registry").hover()


def test_workers_are_shown_with_what_they_run(
    signed_in: Page, shop: Flask, site: str, redis: Redis[Any], picture: Picture
) -> None:
    for number in range(2):
        send_letter.enqueue(to=f"n{number}")
    taken = claim(shop.extensions["jobserver"])
    worker = rq.Worker(["mail"], name="worker-1", connection=redis)
    worker.register_birth()  # type: ignore[no-untyped-call]
    redis.sadd(f"{worker.key}:executions", *(run.entry for run in taken))
    signed_in.goto(f"{site}/rq/0/view/workers")
    row = signed_in.get_by_role("row", name="worker-1")
    expect(row).to_contain_text("shop.send_letter and 1 more")
    expect(row).to_contain_text("mail")
    picture(signed_in, "workers")
    row.get_by_role("link").click()
    expect(signed_in.get_by_text("Statusstarted")).to_be_visible()


def test_errors_are_pages_too(signed_in: Page, site: str, picture: Picture) -> None:
    # The browser complains of the 404 itself, some time after it shows the page.
    with signed_in.expect_console_message(lambda message: "404" in message.text):
        signed_in.goto(f"{site}/rq/0/view/job/missing")
    expect(signed_in.get_by_role("heading", name="Not Found")).to_be_visible()
    picture(signed_in, "not-found")
    signed_in.complaints.clear()  # type: ignore[attr-defined]
    signed_in.get_by_role("link", name="Queues").click()
    expect(signed_in).to_have_url(f"{site}/rq/")
    signed_in.wait_for_load_state("networkidle")


def test_the_apis_document_is_a_page_that_can_be_unfolded(
    signed_in: Page, site: str, picture: Picture
) -> None:
    page = signed_in
    page.goto(f"{site}/docs")
    expect(page.get_by_role("heading", level=1)).to_contain_text("Job server of shop")
    page.get_by_text("Make a job; while one with its key is active").click()
    expect(page.get_by_role("link", name="JobRequest").first).to_be_visible()
    picture(page, "docs")
    page.get_by_role("link", name="JobRequest").first.click()
    expect(page.locator("#schema-JobRequest")).to_be_in_viewport()
