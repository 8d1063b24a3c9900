"""Who did what: every action of an operator is recorded, whatever came of it."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
from flask import Blueprint, Flask
from flask.testing import FlaskClient

from jobserver import Config, JobServer, errors
from jobserver.ledger import actions, tokens
from tests.integration.web.conftest import MakeShop
from tests.integration.web.shop import TOKEN, db

ADMIN = {"Authorization": f"Bearer {TOKEN}"}


def desk() -> Blueprint:
    """An operator's routes, as any system of an application writes them."""
    routes = Blueprint("desk", __name__, url_prefix="/desk")
    JobServer.protect(routes, role="user")

    @routes.post("/<queue>/jobs/<job>/retry")
    @JobServer.operator_action("job.retry")
    def retry(queue: str, job: str) -> dict[str, str]:
        if job == "lost":
            raise errors.JobNotFound("No such job.")
        return {"retried": job}

    @routes.post("/<queue>")
    def act(queue: str) -> dict[str, int]:
        with JobServer.operator_action("queue.empty", role="admin", target=queue) as entry:
            entry.detail = "3 jobs"
        return {"removed": 3}

    return routes


@pytest.fixture
def office(make_shop: MakeShop) -> Iterator[Flask]:
    """A shop with such routes, inside its app context."""
    app = make_shop()
    app.register_blueprint(desk())
    with app.app_context():
        yield app


@pytest.fixture
def client(office: Flask) -> FlaskClient:
    """Somebody who shows no credential."""
    return office.test_client()


def test_an_action_is_recorded_with_who_what_where_and_outcome(client: FlaskClient) -> None:
    headers = {**ADMIN, "X-Request-Id": "from-the-proxy"}
    answer = client.post("/desk/mail/jobs/17/retry", headers=headers)
    assert (answer.status_code, answer.headers["X-Request-Id"]) == (200, "from-the-proxy")
    (action,) = actions.find(db)
    assert (action.principal, action.role) == ("admin", "admin")
    assert (action.action, action.target) == ("job.retry", "mail/17")
    assert (action.outcome, action.detail) == ("done", "")
    assert (action.request_id, action.remote_address) == ("from-the-proxy", "127.0.0.1")
    assert action.at is not None
    assert action.at.utcoffset() is not None


def test_what_the_view_says_of_it_is_recorded(client: FlaskClient) -> None:
    assert client.post("/desk/mail", headers=ADMIN).get_json() == {"removed": 3}
    (action,) = actions.find(db)
    assert (action.action, action.target, action.detail) == ("queue.empty", "mail", "3 jobs")


def test_an_action_that_failed_is_recorded_as_that(client: FlaskClient) -> None:
    assert client.post("/desk/mail/jobs/lost/retry", headers=ADMIN).status_code == 404
    (action,) = actions.find(db)
    assert (action.outcome, action.detail) == ("failed", "JobNotFound: No such job.")


def test_who_may_not_is_refused_and_nothing_recorded(client: FlaskClient) -> None:
    customer = {"X-Customer": "ada"}
    assert client.post("/desk/mail", headers=customer).status_code == 403
    assert client.post("/desk/mail/jobs/1/retry", headers=customer).status_code == 403
    assert client.post("/desk/mail").status_code == 401
    assert actions.find(db) == []


@pytest.mark.parametrize("sent", ["a b", "x" * 65, "é", "<script>", ""])
def test_a_request_id_that_could_do_harm_is_replaced(client: FlaskClient, sent: str) -> None:
    answer = client.post("/desk/mail", headers={**ADMIN, "X-Request-Id": sent})
    (action,) = actions.find(db)
    assert action.request_id == answer.headers["X-Request-Id"] != sent
    assert action.request_id


def test_whatever_stands_in_a_path_can_be_recorded(client: FlaskClient) -> None:
    path = "/desk/" + "q" * 600 + "/jobs/a%00b%0Ac/retry"
    assert client.post(path, headers=ADMIN).status_code == 200
    (action,) = actions.find(db)
    assert action.target == "q" * 500
    client.post("/desk/mail/jobs/a%00b%0Ac/retry", headers=ADMIN)
    assert actions.find(db)[0].target == "mail/a\ufffdb\ufffdc"


def test_a_database_that_is_away_stops_no_operator_and_the_log_has_the_record(
    client: FlaskClient, caplog: pytest.LogCaptureFixture
) -> None:
    with db.engine.begin() as connection:
        connection.exec_driver_sql("DROP TABLE jobserver_action")
    with caplog.at_level(logging.ERROR):
        assert client.post("/desk/mail", headers=ADMIN).status_code == 200
    assert "'queue.empty'" in caplog.text
    assert "'admin'" in caplog.text
    assert "flask jobs migrate" in caplog.text


def test_an_app_without_database_has_its_record_in_the_log(
    valkey: str, caplog: pytest.LogCaptureFixture
) -> None:
    app = Flask("small")
    JobServer(app, config=Config(redis_url=valkey, admin_token=TOKEN))
    app.register_blueprint(desk())
    with caplog.at_level(logging.INFO, logger="jobserver"):
        assert app.test_client().post("/desk/mail", headers=ADMIN).status_code == 200
    assert "'queue.empty'" in caplog.text
    with app.app_context(), pytest.raises(errors.NoDatabase):
        actions.find(None)


AUDIT = "/engine/api/v1/audit"


def act(client: FlaskClient, *queues: str) -> None:
    for queue in queues:
        assert client.post(f"/desk/{queue}", headers=ADMIN).status_code == 200


def listed(client: FlaskClient, **query: object) -> list[str]:
    answer = client.get(AUDIT, query_string=query, headers=ADMIN)
    assert answer.status_code == 200, answer.text
    return [item["target"] for item in answer.get_json()["items"]]


def test_the_trail_is_read_newest_first_in_pages(client: FlaskClient) -> None:
    act(client, "a", "b", "c", "d", "e")
    path, seen = f"{AUDIT}?limit=2", []
    while path:
        answer = client.get(path, headers=ADMIN)
        page = answer.get_json()
        seen.append([item["target"] for item in page["items"]])
        link = answer.headers.get("Link", "")
        assert bool(link) == (page["nextCursor"] is not None)
        path = link.partition(">")[0].removeprefix("<")
    assert seen == [["e", "d"], ["c", "b"], ["a"]]


def test_an_entry_shows_all_that_is_known(client: FlaskClient) -> None:
    act(client, "mail")
    (item,) = client.get(AUDIT, headers=ADMIN).get_json()["items"]
    assert item.pop("at").endswith("+00:00")
    assert len(item.pop("requestId")) == 23
    assert item == {
        "id": 1,
        "principal": "admin",
        "role": "admin",
        "action": "queue.empty",
        "target": "mail",
        "outcome": "done",
        "detail": "3 jobs",
        "remoteAddress": "127.0.0.1",
    }


def test_the_trail_is_filtered_by_who_what_and_outcome(client: FlaskClient) -> None:
    act(client, "a", "b")
    client.post("/desk/c/jobs/lost/retry", headers=ADMIN)
    assert listed(client, target="a") == ["a"]
    assert listed(client, action="job.retry") == listed(client, outcome="failed") == ["c/lost"]
    assert listed(client, principal="admin", action="queue.empty") == ["b", "a"]
    assert listed(client, principal="nobody") == listed(client, target="a\0") == []


@pytest.mark.parametrize("query", ["limit=0", "limit=201", "cursor=x", "outcome=maybe"])
def test_a_wrong_question_is_refused(client: FlaskClient, query: str) -> None:
    answer = client.get(f"{AUDIT}?{query}", headers=ADMIN)
    assert (answer.status_code, answer.content_type) == (422, "application/problem+json")


@pytest.mark.parametrize(("role", "status"), [("viewer", 403), ("operator", 200), ("admin", 200)])
def test_operators_read_the_trail_and_viewers_do_not(
    client: FlaskClient, role: str, status: int
) -> None:
    headers = {"Authorization": f"Bearer {tokens.create(db, name='reader', role=role)}"}
    assert client.get(AUDIT, headers=headers).status_code == status
    assert client.get(AUDIT, headers={"X-Customer": "ada"}).status_code == 403


def test_an_app_without_database_has_no_trail_to_read(valkey: str) -> None:
    app = Flask("small")
    JobServer(app, config=Config(redis_url=valkey, admin_token=TOKEN))
    assert app.test_client().get("/api/v1/audit", headers=ADMIN).status_code == 501
