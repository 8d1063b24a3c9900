"""Whose a follow is: users see the own ones and nothing of the others'."""

from collections.abc import Callable

import pytest
from flask import Flask
from flask.testing import FlaskClient

from jobs.follows.jobs import resync_follows
from jobs.records import Shop, db, writing
from jobserver.ledger import models, tokens
from jobserver.testing import enqueued, perform, work
from tests.jobs.conftest import FreshSessionClient
from tests.jobs.http import bearer

AskAs = Callable[[str], FlaskClient]


@pytest.fixture
def shops(app: Flask) -> list[int]:
    """The ids of four shops."""
    with writing() as session:
        made = [Shop(name=f"shop {number}", currency="USD") for number in range(4)]
        session.add_all(made)
        session.flush()
        return [shop.id for shop in made]


@pytest.fixture
def ask_as(app: Flask) -> AskAs:
    """Returns clients with a user's token, by owner."""

    def ask(owner: str) -> FlaskClient:
        secret = tokens.create(db, name=f"user-{owner}", role="user", owner=owner)
        client = FreshSessionClient(app, app.response_class)
        client.environ_base["HTTP_AUTHORIZATION"] = bearer(secret)
        return client

    return ask


def body(follower: int, source: int) -> dict[str, object]:
    return {
        "mode": "resell",
        "followerShopId": follower,
        "sourceShopId": source,
        "markupPercentage": 20,
    }


def follow(client: FlaskClient, follower: int, source: int) -> int:
    answer = client.post("/api/follows", json=body(follower, source))
    assert answer.status_code == 202, answer.text
    number: int = answer.get_json()["data"]["id"]
    return number


def ids(client: FlaskClient) -> list[int]:
    return [item["id"] for item in client.get("/api/follows").get_json()["items"]]


def test_a_user_sees_its_own_follows_and_their_syncs_only(
    client: FlaskClient, ask_as: AskAs, shops: list[int]
) -> None:
    ada, grace = ask_as("ada"), ask_as("grace")
    own, foreign, nobodys = (
        follow(asker, shops[0], source)
        for asker, source in zip((ada, grace, client), shops[1:], strict=True)
    )
    assert ids(ada) == [own]
    assert ids(grace) == [foreign]
    assert ids(client) == [nobodys, foreign, own]
    for path in ("/api/follows/{}", "/api/follows/{}/sync-status", "/api/v1/jobs/follow-{}"):
        assert ada.get(path.format(own)).status_code == 200
        assert client.get(path.format(foreign)).status_code == 200
        for other in (foreign, nobodys):
            hidden, missing = ada.get(path.format(other)), ada.get(path.format(999_999))
            assert (hidden.status_code, missing.status_code) == (404, 404)
            assert hidden.get_json()["title"] == missing.get_json()["title"]


def test_a_user_without_an_owner_sees_not_even_nobodys_follows(
    client: FlaskClient, ask_as: AskAs, shops: list[int]
) -> None:
    nobodys = follow(client, shops[0], shops[1])
    asker = ask_as("to-be-lost")
    with writing() as session:
        session.execute(models.tokens.update().values(owner=None))
    assert ids(asker) == []
    assert asker.get(f"/api/follows/{nobodys}").status_code == 404


def test_a_follow_that_exists_is_named_to_those_who_see_it_only(
    client: FlaskClient, ask_as: AskAs, shops: list[int]
) -> None:
    ada, grace = ask_as("ada"), ask_as("grace")
    made = follow(ada, shops[0], shops[1])
    for asker, names_it in ((ada, True), (client, True), (grace, False)):
        refused = asker.post("/api/follows", json=body(shops[0], shops[1]))
        assert refused.status_code == 409
        assert (f"follow {made}" in refused.get_json()["detail"]) is names_it


def test_syncs_that_are_repeated_stay_the_owners(
    app: Flask, client: FlaskClient, ask_as: AskAs, shops: list[int]
) -> None:
    ada, grace = ask_as("ada"), ask_as("grace")
    follows = {
        "ada": follow(ada, shops[0], shops[1]),
        "grace": follow(grace, shops[0], shops[2]),
        None: follow(client, shops[0], shops[3]),
    }
    work()
    assert perform(resync_follows)["enqueued"] == 3
    assert {job.owner: job.id for job in enqueued("follows.sync_products")} == {
        owner: f"follow-{number}" for owner, number in follows.items()
    }


def test_a_follow_that_is_asked_for_twice_with_one_key_is_made_once(
    client: FlaskClient, shops: list[int]
) -> None:
    wanted = body(shops[0], shops[1])
    answers = [
        client.post("/api/follows", json=wanted, headers={"Idempotency-Key": '"once"'})
        for _ in range(3)
    ]
    assert [answer.status_code for answer in answers] == [202] * 3
    assert len({answer.data for answer in answers}) == 1
    assert len(ids(client)) == 1
