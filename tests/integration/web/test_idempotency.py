"""A request that is repeated with its Idempotency-Key is worked on once."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from flask.testing import FlaskClient
from hypothesis import given
from hypothesis import strategies as st
from redis import Redis
from werkzeug.test import TestResponse

from jobserver import errors
from jobserver.broker import replies
from jobserver.http import idempotency
from jobserver.http.idempotency import parsed_key
from tests.integration.web.conftest import MakeShop
from tests.integration.web.orders import Orders
from tests.integration.web.shop import TOKEN

ADMIN = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture
def orders() -> Orders:
    """The route that creates."""
    return Orders()


@pytest.fixture
def client(make_shop: MakeShop, orders: Orders) -> Iterator[FlaskClient]:
    """A client of a shop that has the route."""
    app = make_shop()
    app.register_blueprint(orders.blueprint)
    yield app.test_client()


def post(client: FlaskClient, key: str | None = "k1", **body: Any) -> TestResponse:
    headers = ADMIN if key is None else {**ADMIN, "Idempotency-Key": key}
    return client.post("/orders", json={"to": "ada", **body}, headers=headers)


def test_a_repeat_gets_the_first_answer_and_nothing_is_done(
    client: FlaskClient, orders: Orders
) -> None:
    first, second = post(client), post(client)
    assert len(orders.taken) == 1
    assert (first.status_code, first.data) == (second.status_code, second.data)
    assert second.headers["Location"] == first.headers["Location"] == "/orders/1"
    assert second.headers["Retry-After"] == "2"
    assert second.content_type == first.content_type
    assert second.headers["Idempotent-Replayed"] == "true"
    assert "Idempotent-Replayed" not in first.headers


def test_requests_without_a_key_are_each_worked_on(client: FlaskClient, orders: Orders) -> None:
    post(client, None)
    post(client, None)
    assert len(orders.taken) == 2


def test_a_quoted_key_and_the_same_one_bare_are_one(client: FlaskClient, orders: Orders) -> None:
    post(client, '"8e03"')
    assert post(client, "8e03").headers["Idempotent-Replayed"] == "true"
    assert len(orders.taken) == 1


@pytest.mark.parametrize("key", ["", '""', "a b", '"open', "é", '"\\x"', "x" * 256, "a\tb"])
def test_a_key_that_is_none_is_refused(client: FlaskClient, orders: Orders, key: str) -> None:
    answer = post(client, key)
    assert (answer.status_code, answer.content_type) == (400, "application/problem+json")
    assert orders.taken == []


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=255))
def test_every_string_can_be_a_key_when_quoted(text: str) -> None:
    quoted = '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
    assert parsed_key(quoted) == text
    assert parsed_key(quoted + ";a=1") == text


def test_another_payload_or_path_under_the_same_key_is_refused(
    client: FlaskClient, orders: Orders
) -> None:
    post(client)
    headers = {**ADMIN, "Idempotency-Key": "k1"}
    for answer in (
        post(client, to="grace"),
        client.post("/orders?x=1", json={"to": "ada"}, headers=headers),
    ):
        assert (answer.status_code, answer.content_type) == (422, "application/problem+json")
        assert answer.get_json()["type"] == "#idempotency-mismatch"
    assert len(orders.taken) == 1


def test_each_asker_has_keys_of_its_own(client: FlaskClient, orders: Orders) -> None:
    for headers in (ADMIN, {"X-Customer": "ada"}, {"X-Customer": "grace"}):
        headers = {**headers, "Idempotency-Key": "k1"}
        answer = client.post("/orders", json={"to": "ada"}, headers=headers)
        assert "Idempotent-Replayed" not in answer.headers
    assert len(orders.taken) == 3


@pytest.mark.parametrize("status", [409, 500])
def test_a_failure_is_not_kept_and_the_key_is_free_again(
    client: FlaskClient, orders: Orders, status: int
) -> None:
    assert post(client, status=status).status_code == status
    assert post(client, status=status).status_code == status
    assert len(orders.taken) == 2


@pytest.mark.parametrize("status", [422, 503])
def test_a_failure_that_a_view_returns_is_not_kept_either(
    client: FlaskClient, orders: Orders, status: int
) -> None:
    assert post(client, returned=status).status_code == status
    assert "Idempotent-Replayed" not in post(client, returned=status).headers
    assert len(orders.taken) == 2


class AtWork:
    """A first request that is held inside its view, in a thread of its own."""

    def __init__(self, client: FlaskClient, orders: Orders) -> None:
        self.inside, self.go_on = threading.Event(), threading.Event()
        self.answers: list[TestResponse] = []
        orders.last = self._hold
        self._app = client.application
        self._threads: list[threading.Thread] = []
        self.start()
        assert self.inside.wait(20)

    def start(self) -> None:
        """Send the request, without waiting for its answer."""
        thread = threading.Thread(target=lambda: self.answers.append(post(self._app.test_client())))
        thread.start()
        self._threads.append(thread)

    def finish(self) -> None:
        """Let the view go on, and wait for all answers."""
        self.go_on.set()
        for thread in self._threads:
            thread.join(20)

    def _hold(self) -> None:
        self.inside.set()
        assert self.go_on.wait(20)


def test_repeats_while_the_first_is_at_work_get_its_answer(
    client: FlaskClient, orders: Orders
) -> None:
    first = AtWork(client, orders)
    for _ in range(3):
        first.start()
    first.finish()
    assert {answer.data for answer in first.answers} == {first.answers[0].data}
    assert [answer.status_code for answer in first.answers] == [202] * 4
    assert len(orders.taken) == 1


def test_a_repeat_waits_only_so_long(
    client: FlaskClient, orders: Orders, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(idempotency, "PATIENCE", 0.05)
    first = AtWork(client, orders)
    answer = post(client)
    first.finish()
    assert (answer.status_code, answer.headers["Retry-After"]) == (409, "1")
    assert answer.get_json()["type"] == "#idempotency-in-flight"
    assert len(orders.taken) == 1


def test_the_claim_of_a_request_that_died_lapses_soon_and_its_call_has_the_same_name(
    client: FlaskClient, orders: Orders, redis: Redis
) -> None:
    first = AtWork(client, orders)
    (key,) = redis.scan_iter("jobserver:reply:*")
    assert 0 < redis.pttl(key) <= replies.CLAIM_SECONDS * 1000
    redis.pexpire(key, 0)  # as if that time had passed
    orders.last = lambda: None
    second = post(client)
    first.finish()
    assert len(orders.taken) == 2
    assert second.get_json()["call"] == first.answers[0].get_json()["call"] is not None
    # The late one has lost its claim: what the second was answered is what stays.
    assert post(client).data == second.data


def test_an_answer_is_kept_for_a_day(client: FlaskClient, redis: Redis) -> None:
    post(client)
    (key,) = redis.scan_iter("jobserver:reply:*")
    assert 86_000 < redis.ttl(key) <= 86_400


def test_without_redis_nothing_is_done_under_a_key(make_shop: MakeShop, orders: Orders) -> None:
    app = make_shop(redis_url="redis://127.0.0.1:1/0")
    app.register_blueprint(orders.blueprint)
    assert post(app.test_client()).status_code == 503
    assert orders.taken == []


def test_the_work_is_answered_even_if_the_answer_cannot_be_kept(
    client: FlaskClient, orders: Orders, redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    orders.last = lambda: redis.config_set("maxmemory", 1)
    try:
        assert post(client).status_code == 202
    finally:
        redis.config_set("maxmemory", 0)
    assert "not kept" in caplog.text


def test_a_key_says_nothing_of_who_uses_it(client: FlaskClient, redis: Redis) -> None:
    post(client, "my-order-17")
    assert not [key for key in redis.scan_iter("*my-order-17*")]


def test_wrong_keys_are_malformed() -> None:
    with pytest.raises(errors.Malformed, match="Idempotency-Key"):
        parsed_key("a b")


def test_the_document_says_which_requests_take_a_key(client: FlaskClient) -> None:
    paths = client.get("/engine/openapi.json", headers=ADMIN).get_json()["paths"]
    said = {
        (path, method)
        for path, operations in paths.items()
        for method, operation in operations.items()
        if method != "parameters" and "Idempotency-Key" in operation.get("description", "")
    }
    assert ("/orders", "post") in said
    assert ("/engine/api/v1/jobs/bulk", "post") in said
    assert {method for _, method in said} == {"post"}
