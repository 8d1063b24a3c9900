"""`/api/v1/schedules`: making, finding, trying and steering schedules over HTTP."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from flask import Flask
from flask.testing import FlaskClient
from redis import Redis
from sqlalchemy import select, update

from jobserver import JobServer
from jobserver.ledger.models import actions, runs
from jobserver.recorder import Recorder
from jobserver.scheduler import Scheduler
from jobserver.testing import enqueued, work
from tests.integration.web.conftest import AskAs, MakeShop
from tests.integration.web.shop import TOKEN, db
from tests.integration.web.test_jobs_api import CLOSED, pointers, problem

SCHEDULES = "/engine/api/v1/schedules"
LETTER = {"type": "shop.send_letter", "payload": {"to": "ada"}}
NIGHTLY = LETTER | {"cron": "30 2 * * *", "timezone": "Europe/Berlin"}
DEFAULTS = {
    "cron": None,
    "seconds": None,
    "timezone": "UTC",
    "jitter": 0,
    "start": None,
    "end": None,
    "count": None,
    "misfire": "once",
    "limit": 100,
    "grace": 60,
    "overlap": "skip",
    "priority": "normal",
    "origin": "api",
    "state": "active",
    "reason": "",
    "made": 0,
    "skipped": 0,
    "missed": 0,
    "lastJob": None,
}


def test_a_schedule_is_made_shown_changed_listed_and_removed(admin: FlaskClient) -> None:
    made = admin.put(f"{SCHEDULES}/nightly", json=NIGHTLY)
    assert made.status_code == 201, made.text
    body = made.get_json()
    due = datetime.fromisoformat(body["nextAt"])
    assert timedelta(0) < due - datetime.now(UTC) <= timedelta(hours=25)
    assert body == DEFAULTS | NIGHTLY | {"id": "nightly", "nextAt": body["nextAt"]}
    assert admin.get(f"{SCHEDULES}/nightly").get_json() == body

    changes: dict[str, Any] = {
        "seconds": 90.5,
        "jitter": 5,
        "start": "2030-01-01T00:00:00+01:00",
        "end": "2031-01-01T00:00:00Z",
        "count": 7,
        "misfire": "all",
        "limit": 3,
        "grace": 1,
        "overlap": "queue_one",
        "priority": "high",
    }
    changed = admin.put(f"{SCHEDULES}/nightly", json=LETTER | changes)
    assert changed.status_code == 200
    body = changed.get_json()
    moments = {"start", "end", "nextAt"}
    assert at(body["nextAt"]) == at(body["start"]) == at(changes["start"])
    assert at(body["end"]) == at(changes["end"])
    kept = {name: value for name, value in body.items() if name not in moments}
    wanted = {"id": "nightly", **DEFAULTS, **LETTER, **changes}
    assert kept == {name: value for name, value in wanted.items() if name not in moments}

    assert [one["id"] for one in admin.get(SCHEDULES).get_json()["items"]] == ["nightly"]
    gone = admin.delete(f"{SCHEDULES}/nightly")
    assert (gone.status_code, gone.data) == (204, b"")
    for response in (
        admin.get(f"{SCHEDULES}/nightly"),
        admin.get(f"{SCHEDULES}/nightly/runs"),
        admin.delete(f"{SCHEDULES}/nightly"),
        admin.post(f"{SCHEDULES}/nightly/trigger"),
        admin.post(f"{SCHEDULES}/nightly/pause"),
        admin.post(f"{SCHEDULES}/nightly/resume"),
    ):
        assert "'nightly'" in problem(response, 404)["detail"]


WRONG: list[tuple[dict[str, Any], str]] = [
    ({}, "#/cron"),
    ({"cron": "0 0 * * *", "seconds": 5}, "#/cron"),
    ({"cron": "61 * * * *"}, "#/cron"),
    ({"cron": "0 0 31 2 *"}, "#/cron"),
    ({"cron": 5}, "#/cron"),
    ({"seconds": 0.5}, "#/seconds"),
    ({"seconds": "60"}, "#/seconds"),
    ({"cron": "@daily", "timezone": "Europe/Atlantis"}, "#/timezone"),
    ({"cron": "@daily", "timezone": "../etc/passwd"}, "#/timezone"),
    ({"seconds": 60, "jitter": -1}, "#/jitter"),
    ({"seconds": 60, "jitter": 60}, "#/jitter"),
    ({"seconds": 60, "start": "2030-01-01T00:00:00"}, "#/start"),
    ({"seconds": 60, "start": "2030-01-02T00:00Z", "end": "2030-01-01T00:00Z"}, "#/end"),
    ({"seconds": 60, "count": 0}, "#/count"),
    ({"seconds": 60, "misfire": "never"}, "#/misfire"),
    ({"seconds": 60, "limit": 1001}, "#/limit"),
    ({"seconds": 60, "grace": "long"}, "#/grace"),
    ({"seconds": 60, "overlap": "pile"}, "#/overlap"),
    ({"seconds": 60, "priority": 1}, "#/priority"),
    ({"seconds": 60, "paused": "yes"}, "#/paused"),
    ({"seconds": 60, "paused": 0}, "#/paused"),
    ({"seconds": 60, "origin": "registry"}, "#/origin"),
    ({"seconds": 60, "type": "shop.send_leter"}, "#/type"),
    ({"seconds": 60, "payload": {}}, "#/payload/to"),
    ({"seconds": 60, "payload": {"to": "ada", "cc": "x"}}, "#/payload/cc"),
    ({"seconds": 60, "payload": []}, "#/payload"),
]


def test_what_is_wrong_is_named_by_field_and_nothing_is_made(admin: FlaskClient) -> None:
    for wrong, pointer in WRONG:
        response = admin.put(f"{SCHEDULES}/x", json=LETTER | wrong)
        assert pointers(response) == {pointer}, wrong
    assert pointers(admin.put(f"{SCHEDULES}/x.y", json=NIGHTLY)) == {"#/id"}
    assert admin.get(SCHEDULES).get_json() == {"items": [], "nextCursor": None}


def test_a_triggered_job_is_made_at_once_and_once_per_key(admin: FlaskClient, redis: Redis) -> None:
    admin.put(f"{SCHEDULES}/nightly", json=NIGHTLY | {"paused": True})
    before = admin.get(f"{SCHEDULES}/nightly").get_json()
    key = {"Idempotency-Key": "only-once"}
    first = admin.post(f"{SCHEDULES}/nightly/trigger", headers=key)
    assert first.status_code == 202
    again = admin.post(f"{SCHEDULES}/nightly/trigger", headers=key)
    assert (again.get_json(), again.headers["Idempotent-Replayed"]) == (first.get_json(), "true")
    job_id = first.get_json()["id"]
    assert [job.id for job in enqueued()] == [job_id]
    assert first.headers["Location"] == f"/engine/api/v1/jobs/{job_id}"
    assert admin.get(first.headers["Location"]).get_json()["status"] == "waiting"
    # The first may have died before its answer was kept.
    for kept in redis.scan_iter("jobserver:reply:*"):
        redis.delete(kept)
    again = admin.post(f"{SCHEDULES}/nightly/trigger", headers=key)
    assert again.get_json() == first.get_json() | {"duplicate": True}
    # The job is active, and the schedule lets none overlap.
    another = admin.post(f"{SCHEDULES}/nightly/trigger", headers={"Idempotency-Key": "another"})
    assert job_id in problem(another, 409)["detail"]
    after = admin.get(f"{SCHEDULES}/nightly").get_json()
    assert after == before | {"lastJob": job_id}

    skipped, made = admin.get(f"{SCHEDULES}/nightly/runs").get_json()["items"]
    assert (skipped["outcome"], made["outcome"]) == ("skipped", "triggered")
    assert skipped["jobId"] == made["jobId"] == made["job"]["id"] == job_id
    assert (made["number"], made["job"]["status"]) == (1, "waiting")
    admin.post("/engine/api/v1/queues/mail/empty")
    assert admin.get(f"{SCHEDULES}/nightly/runs").get_json()["items"][1]["job"] is None


def test_jobs_of_past_times_are_shown_by_redis_or_the_ledger(
    admin: FlaskClient, server: JobServer, redis: Redis
) -> None:
    admin.put(f"{SCHEDULES}/nightly", json=NIGHTLY | {"overlap": "allow"})
    trigger = f"{SCHEDULES}/nightly/trigger"
    first, removed = (admin.post(trigger).get_json()["id"] for _ in range(2))
    work()
    second = admin.post(trigger).get_json()["id"]
    recorder = Recorder(server, db.engine)
    recorder.work()
    redis.delete(f"rq:job:{first}")  # as retention does
    redis.delete(f"rq:job:{removed}")
    with db.engine.begin() as connection:
        connection.execute(
            update(runs).where(runs.c.job == removed).values(purged_at=datetime.now(UTC))
        )
    jobs = {run["jobId"]: run["job"] for run in items(admin, "nightly/runs")}
    assert jobs[removed] is None
    assert {jobs[first]["id"], jobs[second]["id"]} == {first, second}
    assert (jobs[first]["status"], jobs[second]["status"]) == ("completed", "waiting")
    recorder.close()


def test_a_paused_schedule_makes_nothing_until_it_is_resumed(
    admin: FlaskClient, server: JobServer
) -> None:
    # One that is due all the time.
    admin.put(f"{SCHEDULES}/often", json=LETTER | {"seconds": 1, "overlap": "allow"})
    for _ in range(2):
        paused = admin.post(f"{SCHEDULES}/often/pause")
        assert (paused.status_code, paused.get_json()["state"]) == (200, "paused")
    # A change of something else leaves it paused.
    changed = admin.put(f"{SCHEDULES}/often", json=LETTER | {"seconds": 1, "overlap": "skip"})
    assert changed.get_json()["state"] == "paused"
    scheduler = Scheduler(server)
    server.broker.connection.zadd("jobserver:due", {"often": 0}, xx=True)
    assert scheduler.enqueue_jobs() == []
    resumed = admin.post(f"{SCHEDULES}/often/resume")
    assert (resumed.status_code, resumed.get_json()["state"]) == (200, "active")


def test_schedules_are_found_a_page_at_a_time(admin: FlaskClient) -> None:
    for number in range(5):
        admin.put(f"{SCHEDULES}/s{number}", json=NIGHTLY)
    admin.put(f"{SCHEDULES}/charge", json={"type": "shop.charge", "payload": {"card": "4711"}} | {
        "seconds": 3600, "paused": True,
    })  # fmt: skip
    ids, url = [], f"{SCHEDULES}?limit=2&type=shop.send_letter"
    while url:
        page = admin.get(url)
        ids.append([one["id"] for one in page.get_json()["items"]])
        link = page.headers.get("Link", "")
        assert bool(link) == (page.get_json()["nextCursor"] is not None)
        url = link.partition(">")[0].removeprefix("<")
    assert ids == [["s0", "s1"], ["s2", "s3"], ["s4"]]
    for query, count in (("state=paused", 1), ("origin=api", 6), ("origin=registry", 0)):
        assert len(admin.get(f"{SCHEDULES}?{query}").get_json()["items"]) == count
    assert pointers(admin.get(f"{SCHEDULES}?state=asleep")) == {"#/state"}
    assert pointers(admin.get(f"{SCHEDULES}?cursor=x")) == {"#/cursor"}


def test_marked_fields_of_a_payload_are_shown_to_nobody(admin: FlaskClient) -> None:
    order = {"type": "shop.charge", "payload": {"card": "4711"}, "seconds": 3600}
    shown = [admin.put(f"{SCHEDULES}/charge", json=order), admin.get(f"{SCHEDULES}/charge")]
    shown += [admin.get(SCHEDULES), admin.post(f"{SCHEDULES}/charge/pause")]
    assert all("4711" not in response.text for response in shown)
    assert shown[1].get_json()["payload"] == {"card": "[redacted]"}
    # Nor does who sends back what was shown put that in the place of the secret.
    edited = order | {"payload": shown[1].get_json()["payload"], "seconds": 60}
    assert pointers(admin.put(f"{SCHEDULES}/charge", json=edited)) == {"#/payload"}


def test_a_preview_shows_the_next_times_with_the_clocks_changes(admin: FlaskClient) -> None:
    asked = {"cron": "30 2 * * *", "tz": "Europe/Berlin", "n": 100}
    answer = admin.get(f"{SCHEDULES}/preview", query_string=asked)
    assert answer.status_code == 200
    times = [at(text) for text in answer.get_json()["times"]]
    assert len(set(times)) == 100
    assert times == sorted(times)
    shown = [text[10:] for text in answer.get_json()["times"]]
    assert set(shown) <= {"T02:30:00+01:00", "T02:30:00+02:00", "T03:00:00+02:00"}
    for query, pointer in (
        ({}, "#/cron"),
        ({"cron": "* * *"}, "#/cron"),
        ({"cron": "@daily", "tz": "Mars"}, "#/tz"),
        ({"cron": "@daily", "n": 0}, "#/n"),
        ({"cron": "@daily", "n": 101}, "#/n"),
    ):
        assert pointers(admin.get(f"{SCHEDULES}/preview", query_string=query)) == {pointer}


def test_what_operators_did_to_schedules_is_on_record(shop: Flask, admin: FlaskClient) -> None:
    admin.put(f"{SCHEDULES}/x", json=NIGHTLY)
    admin.put(f"{SCHEDULES}/x", json=LETTER)
    for verb in ("pause", "resume", "trigger"):
        admin.post(f"{SCHEDULES}/x/{verb}")
    admin.delete(f"{SCHEDULES}/x")
    columns = (actions.c.action, actions.c.target, actions.c.outcome)
    details = db.session.scalars(select(actions.c.detail).order_by(actions.c.position)).all()
    assert details[0] == "made: shop.send_letter, 30 2 * * * Europe/Berlin"
    assert "#/cron" in details[1]
    assert details[4].startswith("x-")
    rows = db.session.execute(select(*columns).order_by(actions.c.position)).all()
    assert [tuple(row) for row in rows] == [
        ("schedule.put", "x", "done"),
        ("schedule.put", "x", "failed"),
        ("schedule.pause", "x", "done"),
        ("schedule.resume", "x", "done"),
        ("schedule.trigger", "x", "done"),
        ("schedule.delete", "x", "done"),
    ]


def test_one_declared_in_code_is_paused_and_triggered_but_stays(
    seeds: Flask, ask_as: AskAs
) -> None:
    server: JobServer = seeds.extensions["jobserver"]
    Scheduler(server).run(burst=True)
    operator, url = ask_as("operator"), "/api/v1/schedules"
    declared = operator.get(f"{url}?origin=registry").get_json()["items"]
    assert {one["id"] for one in declared} == set(server.registry.entries)
    one = f"{url}/{declared[0]['id']}"
    assert "declared in code" in problem(operator.delete(one), 409)["detail"]
    change = {"type": declared[0]["type"], "payload": declared[0]["payload"], "seconds": 5}
    assert "change it there" in problem(operator.put(one, json=change), 409)["detail"]
    assert operator.post(f"{one}/trigger").status_code == 202
    assert operator.post(f"{one}/pause").get_json()["state"] == "paused"
    Scheduler(server).run(burst=True)
    assert operator.get(one).get_json()["state"] == "paused"
    assert operator.post(f"{one}/resume").get_json()["state"] == "active"


def test_a_viewer_looks_and_others_do_not(seeds: Flask, ask_as: AskAs) -> None:
    url = "/api/v1/schedules"
    order = {"type": "users.sync", "payload": {"syncType": "full"}, "seconds": 3600}
    writes = [
        ("PUT", ""),
        ("DELETE", ""),
        *(("POST", f"/{v}") for v in ("trigger", "pause", "resume")),
    ]
    reads = [url, f"{url}/x", f"{url}/x/runs", f"{url}/preview?cron=@daily"]
    assert ask_as("operator").put(f"{url}/x", json=order).status_code == 201
    for role, status in ((None, 401), ("user", 403)):
        assert {ask_as(role).get(read).status_code for read in reads} == {status}
    assert {ask_as("viewer").get(read).status_code for read in reads} == {200}
    for role, status in ((None, 401), ("user", 403), ("viewer", 403)):
        client = ask_as(role)
        answers = {
            client.open(f"{url}/x{path}", method=m, json=order).status_code for m, path in writes
        }
        assert answers == {status}


def test_planned_types_are_not_scheduled(ask_as: AskAs) -> None:
    order = {"type": "whatsapp.message", "seconds": 3600}
    problem(ask_as("operator").put("/api/v1/schedules/x", json=order), 501)


def test_without_redis_every_route_says_so(make_shop: MakeShop) -> None:
    client = make_shop(redis_url=CLOSED).test_client()
    client.environ_base["HTTP_AUTHORIZATION"] = f"Bearer {TOKEN}"
    for method, path in (("GET", ""), ("GET", "/x"), ("PUT", "/x"), ("POST", "/x/trigger")):
        response = client.open(f"{SCHEDULES}{path}", method=method, json=NIGHTLY)
        assert problem(response, 503), path
        assert "Retry-After" in response.headers


def at(text: str) -> datetime:
    return datetime.fromisoformat(text)


def items(client: FlaskClient, path: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = client.get(f"{SCHEDULES}/{path}").get_json()["items"]
    return found
