"""pollJob.js in a real browser: the bar fills and the end is shown, by events and by polls."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
from flask import Flask, request
from playwright.sync_api import Page, Request, expect

from jobserver import Job, JobServer
from tests.browser.conftest import Serve
from tests.hands import Hand
from tests.integration.web.conftest import MakeShop
from tests.integration.web.shop import MAIL, TOKEN, send_letter

pytestmark = pytest.mark.browser

PAGE = """<!doctype html>
<link rel="icon" href="data:,"><title>Letter</title>
<progress max="100" value="0"></progress> <output></output>
<script type="module">
  import { pollJob } from "/engine/api/v1/static/pollJob.js";
  const bar = document.querySelector("progress"), output = document.querySelector("output");
  const controller = new AbortController();
  window.seen = [];
  window.stop = () => controller.abort();
  const options = JSON.parse(new URLSearchParams(location.search).get("options"));
  const onChange = (job) => {
    bar.value = job.progress.percent;
    window.seen.push([job.status, job.progress.percent]);
  };
  pollJob(`/engine/api/v1/jobs/${location.pathname.split("/").pop()}`,
          { ...options, onChange, signal: controller.signal }).then(
    (job) => { output.textContent = `${job.status}: ${JSON.stringify(job.result)}`; },
    (error) => { output.textContent = `${error.name} ${error.status ?? ""}`; },
  );
</script>
"""
BEARER = {"headers": {"Authorization": f"Bearer {TOKEN}"}}


class Visit:
    """A page that follows a letter, and what it asked the server for."""

    def __init__(self, page: Page, site: str) -> None:
        self.page = page
        self.site = site
        self.sent: list[Request] = []
        page.on("request", lambda request: self.sent.append(request))

    def follow(self, job: Job | str, **options: Any) -> None:
        job_id = job if isinstance(job, str) else job.id
        self.page.goto(f"{self.site}/letters/{job_id}?options={json.dumps(options)}")

    def asked(self, end: str) -> list[Request]:
        return [one for one in self.sent if one.url.partition("?")[0].endswith(end)]

    def expect_bar(self, percent: int) -> None:
        bar = self.page.get_by_role("progressbar")
        expect(bar).to_have_js_property("value", percent, timeout=15_000)

    def expect_said(self, text: str) -> None:
        expect(self.page.get_by_role("status")).to_have_text(text, timeout=15_000)

    def complaints(self) -> list[str]:
        found: list[str] = self.page.complaints  # type: ignore[attr-defined]
        taken = found[:]
        found.clear()
        return taken


@pytest.fixture
def shop(make_shop: MakeShop) -> Iterator[Flask]:
    """A shop with a page that follows a letter."""
    app = make_shop()

    @app.get("/letters/<job_id>")
    def show(job_id: str) -> str:
        return PAGE if "options" in request.args else job_id

    with app.app_context():
        yield app
        app.extensions["jobserver"].lookout.close()


@pytest.fixture
def visit(page: Page, shop: Flask, serve: Serve) -> Visit:
    return Visit(page, serve(shop))


@pytest.fixture
def hand(shop: Flask) -> Hand:
    server: JobServer = shop.extensions["jobserver"]
    return Hand(server.broker, [MAIL])


def run(visit: Visit, hand: Hand) -> None:
    """Do the job by hand: the bar must follow each step, and the page show the end."""
    visit.page.wait_for_function("window.seen.length > 0")
    taken = hand.take()
    for percent in (30, 70):
        hand.broker.progress(taken.id, taken.exec, percent=percent, message="writing")
        visit.expect_bar(percent)
    hand.end(taken, value='{"sent": "ada"}')
    visit.expect_bar(100)
    visit.expect_said('completed: {"sent":"ada"}')
    seen = visit.page.evaluate("window.seen")
    assert [percent for _, percent in seen] == sorted(percent for _, percent in seen)
    assert seen[0] == ["waiting", 0]
    assert seen[-1] == ["completed", 100]
    assert len({tuple(one) for one in seen}) == len(seen)  # no state is told twice


def test_with_a_token_the_bar_fills_by_events_and_the_end_is_shown(
    visit: Visit, hand: Hand
) -> None:
    job = send_letter.enqueue(to="ada")
    visit.follow(job, **BEARER)
    run(visit, hand)
    assert len(visit.asked(job.id)) == 2  # the page, and one poll before the stream
    assert len(visit.asked("/ticket")) == len(visit.asked("/events")) == 1
    assert TOKEN not in visit.asked("/events")[0].url


def test_in_a_session_no_ticket_is_needed(visit: Visit, hand: Hand) -> None:
    visit.page.goto(f"{visit.site}/engine/sign-in")
    visit.page.get_by_label("Token").fill(TOKEN)
    visit.page.get_by_role("button", name="Sign in").click()
    visit.page.wait_for_url("**/rq/")
    visit.sent.clear()
    visit.follow(send_letter.enqueue(to="ada"))
    run(visit, hand)
    assert visit.asked("/ticket") == []
    assert len(visit.asked("/events")) == 1


def test_without_eventsource_the_bar_fills_by_polls(visit: Visit, hand: Hand) -> None:
    job = send_letter.enqueue(to="ada")
    visit.page.add_init_script("delete window.EventSource")
    with visit.page.expect_response(lambda response: response.status == 304):
        visit.follow(job, **BEARER)
    run(visit, hand)
    assert visit.asked("/events") == []
    polls = visit.asked(job.id)[1:]
    assert "if-none-match" not in polls[0].headers
    assert all(poll.headers["if-none-match"].startswith('W/"') for poll in polls[1:])
    # One a second while it is active: as often as the server says, and no more.
    times = [poll.timing["startTime"] for poll in polls]
    assert min(later - earlier for earlier, later in pairwise(times)) > 900


def test_where_events_are_held_back_polls_take_their_place(visit: Visit, hand: Hand) -> None:
    visit.page.clock.install()
    visit.page.route("**/events*", lambda _: None)
    with visit.page.expect_request("**/events*"):
        visit.follow(send_letter.enqueue(to="ada"), **BEARER)
    visit.page.clock.fast_forward(5000)
    run(visit, hand)
    assert len(visit.asked("/events")) == 1


def test_an_ended_job_is_shown_at_once(visit: Visit, hand: Hand) -> None:
    job = send_letter.enqueue(to="ada")
    hand.end(hand.take(), value='{"sent": "ada"}')
    visit.follow(job, **BEARER)
    visit.expect_said('completed: {"sent":"ada"}')
    visit.expect_bar(100)
    assert visit.asked("/events") == []


def test_aborting_ends_it_and_nothing_is_asked_any_more(visit: Visit) -> None:
    visit.page.clock.install()
    visit.follow(send_letter.enqueue(to="ada"), **BEARER)
    visit.page.wait_for_function("window.seen.length > 0")
    visit.page.evaluate("window.stop()")
    visit.expect_said("AbortError ")
    visit.sent.clear()
    visit.page.clock.run_for(60_000)
    assert visit.sent == []


def test_a_server_that_is_away_for_a_while_is_asked_again(visit: Visit, hand: Hand) -> None:
    job = send_letter.enqueue(to="ada")
    answers = iter([503, None])

    def hinder(route: Any) -> None:
        status = next(answers, 200)
        if status == 200:
            route.continue_()
        elif status is None:
            route.abort()
        else:
            route.fulfill(status=status, headers={"Retry-After": "1"})

    visit.page.route(f"**/api/v1/jobs/{job.id}", hinder)
    visit.follow(job, **BEARER)
    run(visit, hand)
    assert len(visit.complaints()) == 2


def test_a_job_that_is_not_there_is_an_error(visit: Visit) -> None:
    visit.follow("nobody", **BEARER)
    visit.expect_said("Error 404")
    assert len(visit.complaints()) == 1
