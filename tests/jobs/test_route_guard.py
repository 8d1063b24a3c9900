"""Every route of the application, by its own map: who gets in, who sees what, what is recorded."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from redis import Redis
from werkzeug.routing import Rule
from werkzeug.test import TestResponse

from jobs.records import Follow, Shop, db, writing
from jobserver import current, enqueue
from jobserver.broker import keys
from jobserver.ledger import actions, tokens
from jobserver.recorder import Recorder
from tests.jobs.conftest import FreshSessionClient
from tests.jobs.http import bearer

JOB = "what-ada-alone-may-see"
ADA, GRACE = "ada", "grace"

# Open to all, as static files are, or proven by other means than a token.
OPEN = {
    "jobserver_health.health",
    "jobserver_health.live",
    "jobserver_health.ready",
    "jobserver_pages.close_session",
    "jobserver_pages.open_session",
    "jobserver_pages.sign_in",
    "webhooks.receive",
}
# What users do too: it makes something of their own, and is no operator's action.
CREATING = {
    "follows.create",
    "jobserver_jobs_v1.create_job",
    "jobserver_jobs_v1.create_jobs",
    "orders.confirm",
}
UNBUILT = {"orders.confirm"}  # 501 for everybody who is admitted
READING = {"jobserver_event_stream.create_ticket"}
READ_ONLY = {"jobserver_rq.show"}  # answers every write with 405
LISTS = {"follows.index", "jobserver_jobs_v1.list_jobs", "jobserver_runs_v1.list_runs"}
# What a route needs in order to get as far as its verb.
QUERIES = {"jobserver_monitoring.act": {"action": "pause"}}
BODIES: dict[str, Any] = {
    "jobserver_dead_letters_v1.discard_chosen": {"all": True},
    "jobserver_dead_letters_v1.retry_chosen": {"all": True},
    "jobserver_monitoring.retry_failed": {"queueName": "product-sync"},
    "jobserver_schedules_v1.put_schedule": {"type": "follows.resync_follows", "seconds": 60},
    "user_sync.trigger": {"syncType": "full"},
}

AskAs = Callable[..., FlaskClient]


@pytest.fixture
def ask_as(app: Flask) -> AskAs:
    """Returns clients with a token of a role."""

    def ask(role: str, *, owner: str | None = None) -> FlaskClient:
        secret = tokens.create(db, name=f"{role}-{owner}", role=role, owner=owner)
        client = FreshSessionClient(app, app.response_class)
        client.environ_base["HTTP_AUTHORIZATION"] = bearer(secret)
        return client

    return ask


@pytest.fixture
def adas(app: Flask) -> dict[str, Any]:
    """What a path's arguments may be, all of it Ada's."""
    with writing() as session:
        shops = [Shop(name=f"shop {number}", currency="USD") for number in range(2)]
        session.add_all(shops)
        session.flush()
        follow = Follow(
            follower_shop_id=shops[0].id, source_shop_id=shops[1].id, mode="resell", owner=ADA
        )
        session.add(follow)
        session.flush()
        follow_id, shop_id = follow.id, shops[0].id
    job = enqueue("follows.sync_products", {"follow_id": follow_id}, owner=ADA, key=JOB)
    recorder = Recorder(current.server(), db.engine)
    recorder.work()
    recorder.close()
    return {
        "follow_id": follow_id,
        "shop_id": shop_id,
        "job_id": job.id,
        "run_id": job.run_id,
        "fingerprint": "f",
        "schedule_id": "none",
        "user_id": ADA,
        "queue": "product-sync",
        "order_id": "17",
        "platform": "shopify",
        "job_type": "follows.sync_products",
        "rest": "",
    }


def routes(app: Flask, *, but: set[str]) -> Iterator[tuple[Rule, str]]:
    """Each rule of the app with each of its methods."""
    for rule in app.url_map.iter_rules():
        if rule.endpoint.rpartition(".")[2] == "static":
            continue
        for method in sorted((rule.methods or set()) - {"HEAD", "OPTIONS"}):
            if rule.endpoint not in but:
                yield rule, method


def ask(client: FlaskClient, rule: Rule, method: str, arguments: dict[str, Any]) -> TestResponse:
    """Ask a route as it wants to be asked."""
    with current.application().test_request_context():
        unknown = rule.arguments - set(arguments)
        assert not unknown, f"{rule} has arguments that this test does not know: {unknown}"
        built = rule.build({name: arguments[name] for name in rule.arguments}, append_unknown=False)
    assert built
    write = {} if method == "GET" else {"json": BODIES.get(rule.endpoint, {})}
    query = QUERIES.get(rule.endpoint, {})
    return client.open(built[1], method=method, query_string=query, **write)


def state(redis: Redis) -> dict[bytes, bytes]:
    """All that Redis holds."""
    return {key: redis.dump(key) for key in redis.scan_iter()}  # type: ignore[misc]


def test_nobody_gets_in_without_a_credential(
    app: Flask, adas: dict[str, Any], redis: Redis
) -> None:
    before = state(redis)
    for rule, method in routes(app, but=OPEN):
        answer = ask(app.test_client(), rule, method, adas)
        sent_to_sign_in = answer.status_code == 303 and "/sign-in" in answer.headers["Location"]
        assert answer.status_code == 401 or sent_to_sign_in, (rule, method, answer.status)
    assert state(redis) == before


def test_a_user_sees_and_changes_nothing_of_anothers(
    app: Flask, adas: dict[str, Any], ask_as: AskAs, redis: Redis
) -> None:
    grace = ask_as("user", owner=GRACE)
    before = redis.dump(keys.job(JOB))
    for rule, method in routes(app, but=OPEN):
        answer = ask(grace, rule, method, adas)
        where = (rule, method, answer.status, answer.text)
        assert answer.status_code < 500 or answer.status_code == 501, where
        if {"follow_id", "job_id", "run_id"} & rule.arguments:
            assert answer.status_code in (403, 404), where
        else:
            assert JOB not in answer.text, where
        if rule.endpoint in LISTS:
            assert answer.get_json()["items"] == [], where
    assert redis.dump(keys.job(JOB)) == before


def test_a_viewer_changes_nothing(
    app: Flask, adas: dict[str, Any], ask_as: AskAs, redis: Redis
) -> None:
    viewer = ask_as("viewer")
    before = state(redis)
    for rule, method in routes(app, but=OPEN | READING | UNBUILT):
        if method != "GET":
            answer = ask(viewer, rule, method, adas)
            assert answer.status_code in (403, 405), (rule, method, answer.status)
    assert state(redis) == before
    assert actions.find(db) == []


def test_whatever_operators_and_admins_do_is_recorded(
    app: Flask, adas: dict[str, Any], ask_as: AskAs
) -> None:
    admin = ask_as("admin")
    walked = 0
    for rule, method in routes(app, but=OPEN | CREATING | READING | READ_ONLY):
        if method == "GET":
            continue
        walked += 1
        answer = ask(admin, rule, method, adas)
        assert answer.status_code not in (401, 403, 422), (rule, method, answer.text)
        recorded = actions.find(db)
        assert len(recorded) == walked, f"{method} {rule} records nothing, or twice"
        assert recorded[0].principal == "admin-None"
        assert recorded[0].outcome == ("done" if answer.status_code < 400 else "failed")
    assert walked >= 8


def test_reading_is_not_recorded(app: Flask, adas: dict[str, Any], ask_as: AskAs) -> None:
    admin = ask_as("admin")
    for rule, method in routes(app, but=OPEN):
        if method == "GET":
            ask(admin, rule, method, adas)
    assert actions.find(db) == []


def test_a_user_makes_no_job_of_a_type_that_is_not_for_users(
    app: Flask, adas: dict[str, Any], ask_as: AskAs, redis: Redis
) -> None:
    grace = ask_as("user", owner=GRACE)
    before = state(redis)
    for name in sorted(current.server().registry.types):
        order = {"type": name, "payload": {"follow_id": adas["follow_id"]}}
        assert grace.post("/api/v1/jobs", json=order).status_code == 403
        made = grace.post("/api/v1/jobs/bulk", json={"jobs": [order]}).get_json()
        assert [item["status"] for item in made["items"]] == [403]
    assert state(redis) == before
