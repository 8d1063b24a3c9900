"""What holds for every route of the documents: who may use it, what it costs, how it refuses."""

from __future__ import annotations

import re
import statistics
import time
from dataclasses import dataclass, replace
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from redis import Redis
from sqlalchemy import select
from werkzeug.test import TestResponse

from jobs.records import db as records
from jobserver import JobServer
from jobserver.auth import Role
from jobserver.broker import Broker, connect
from jobserver.ledger.models import actions
from tests.hands import Hand, request_of, round_trips
from tests.integration.web.contract import assert_problem

ROLES: tuple[Role, ...] = ("user", "viewer", "operator", "admin")


@dataclass(frozen=True)
class Route:
    """A route of a document, on a queue where `bad` and `worse` have failed.

    `action` is what the audit trail calls it, `status` what it answers when all is well.
    """

    method: str
    path: str
    role: Role
    status: int = 200
    body: Any = None
    action: str | None = None

    def ask(self, client: FlaskClient) -> TestResponse:
        return client.open(self.path, method=self.method, json=self.body)

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


S1 = "/app/job-status"
S3 = "/api/v1/queues/USER_DATA"
S4 = "/api/jobs/user-data"
RETRY = "/api/jobs/monitoring/retry"
HOURS = {"gracePeriodHours": 24}
KINDS = ("queue", "scheduled", "wip", "finished", "failed")

ROUTES = [
    Route("GET", f"{S1}/status/user/1", "viewer"),
    Route("GET", f"{S1}/status/job/bad", "viewer"),
    Route("GET", f"{S1}/recent", "viewer"),
    Route("GET", f"{S1}/queue/stats", "viewer"),
    Route("GET", f"{S1}/failed?limit=100", "viewer"),
    Route("GET", "/jobs/status", "viewer"),
    Route("POST", "/jobs/trigger/user-sync", "operator", 202, {}, "sync.trigger"),
    Route("POST", "/jobs/pause", "operator", action="queue.pause"),
    Route("POST", "/jobs/resume", "operator", action="queue.resume"),
    Route("POST", "/jobs/cleanup", "admin", 200, HOURS, "queue.clean"),
    Route("GET", "/api/v1/queues/stats", "viewer"),
    Route("GET", f"{S3}/failed?start=0&end=10", "viewer"),
    Route("POST", f"{S3}/jobs/bad/retry", "operator", 202, action="job.retry"),
    Route("POST", f"{S3}/clean", "admin", 200, HOURS, "queue.clean"),
    Route("POST", f"{S3}/pause", "operator", action="queue.pause"),
    Route("POST", f"{S3}/resume", "operator", action="queue.resume"),
    Route("GET", "/api/jobs/monitoring", "viewer"),
    Route("GET", S4, "viewer"),
    Route("POST", RETRY, "operator", 202, {"queueName": "user-data"}, "queue.retry"),
    Route("POST", RETRY, "operator", 202, {"queueName": "user-data", "jobId": "bad"}, "job.retry"),
    Route("POST", f"{S4}?action=pause", "operator", action="queue.pause"),
    Route("POST", f"{S4}?action=resume", "operator", action="queue.resume"),
    Route("POST", f"{S4}?action=empty", "admin", action="queue.empty"),
    Route("POST", f"{S4}?action=clean", "admin", action="queue.clean"),
    Route("POST", "/api/orders/1/confirm", "user", 501),
]
OPEN = Route("POST", "/api/webhooks/shopify", "user", 501, {"id": 1})

every_route = pytest.mark.parametrize("route", ROUTES, ids=str)


@pytest.fixture
def server(seeds: Flask, hand: Hand) -> JobServer:
    """The application's; two jobs of user-data have failed, one of them the user 1's."""
    found: JobServer = seeds.extensions["jobserver"]
    for job_id in ("bad", "user-1"):
        found.broker.enqueue([request_of(job_id, queue="user-data", type_name="sellers.it")])
        hand.end(hand.take(), "failed")
    return found


@every_route
def test_a_route_is_for_its_role_and_those_above(
    ask_as: Any, server: JobServer, route: Route
) -> None:
    assert_problem(route.ask(ask_as(None)), 401)
    lower, admitted = ROLES[: ROLES.index(route.role)], ROLES[ROLES.index(route.role)]
    for role in lower:
        assert_problem(route.ask(ask_as(role)), 403)
    assert server.counts()["user-data"]["failed"] == 2  # a refused request does nothing
    assert not any(state.pause for state in server.statistics().values())
    assert route.ask(ask_as(admitted)).status_code == route.status


@every_route
def test_what_operators_do_is_recorded(ask_as: Any, server: JobServer, route: Route) -> None:
    with records.engine.begin() as connection:
        connection.execute(actions.delete())
    route.ask(ask_as("admin"))
    with records.engine.connect() as connection:
        rows = connection.execute(select(actions.c.action, actions.c.target)).all()
    assert [row.action for row in rows] == ([route.action] if route.action else [])
    targets = {"user-sync", "user-data", "USER_DATA", "USER_DATA/bad", "user-data/bad"}
    assert {row.target for row in rows} <= targets


@pytest.mark.parametrize("route", [route for route in ROUTES if route.status != 501], ids=str)
def test_without_redis_a_route_says_when_to_come_again(
    ask_as: Any, server: JobServer, route: Route, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "broker", Broker(connect("redis://127.0.0.1:1/0")))
    response = route.ask(ask_as("admin"))
    assert_problem(response, 503)
    assert response.headers["Retry-After"] == "2"


@pytest.mark.parametrize("route", [route for route in ROUTES if route.method == "POST"], ids=str)
def test_a_body_that_is_not_needed_may_be_empty_and_have_no_type(
    ask_as: Any, server: JobServer, route: Route
) -> None:
    response = ask_as("admin").post(route.path, data=b"")
    assert response.request.headers.get("Content-Type") is None
    if route.path == RETRY:  # which queue cannot be left out
        assert assert_problem(response, 422)["errors"][0]["pointer"] == "#/queueName"
    else:
        assert response.status_code == route.status


@pytest.mark.parametrize(
    "path",
    [S3.replace("USER_DATA", name) for name in ("nowhere", "monitoring", "..", "ü")],
)
def test_an_unknown_queue_is_not_found(ask_as: Any, server: JobServer, path: str) -> None:
    admin = ask_as("admin")
    name = path.rpartition("/")[2]
    asked = [
        admin.get(f"{path}/failed"),
        admin.post(f"{path}/jobs/bad/retry"),
        admin.post(f"{path}/clean"),
        admin.post(f"{path}/pause"),
        admin.post(f"{path}/resume"),
    ]
    if name != "monitoring":  # that is a path of its own
        asked.append(admin.get(f"/api/jobs/{name}"))
        asked += [
            admin.post(f"/api/jobs/{name}?action={action}")
            for action in ("pause", "resume", "empty", "clean")
        ]
    for more in ({}, {"jobId": "bad"}):
        asked.append(admin.post(RETRY, json={"queueName": name} | more))
    for response in asked:
        assert_problem(response, 404)
    assert server.fetch("bad").status == "failed"


@pytest.mark.parametrize(
    ("path", "body", "pointer"),
    [
        ("/jobs/cleanup", {"gracePeriodHours": -1}, "#/gracePeriodHours"),
        ("/jobs/cleanup", {"gracePeriodHours": "x"}, "#/gracePeriodHours"),
        ("/jobs/cleanup", {"gracePeriodHours": 1e300}, "#/gracePeriodHours"),
        ("/jobs/cleanup", {"hours": 1}, "#/hours"),
        ("/jobs/cleanup", [], "#"),
        ("/jobs/trigger/user-sync", {"syncType": "half"}, "#/syncType"),
        (f"{S3}/clean", {"gracePeriodHours": None}, "#/gracePeriodHours"),
        (f"{S3}/clean", [1], "#"),
        (f"{S3}/pause", {"reason": "x" * 201}, "#/reason"),
        (f"{S3}/pause", {"until": "tomorrow"}, "#/until"),
        (f"{S3}/pause", {"until": "2025-11-05T00:00:00Z"}, "#/until"),
        (S4, None, "#/action"),
        (f"{S4}?action=delete", None, "#/action"),
        (RETRY, {"queueName": 7}, "#/queueName"),
        (RETRY, {"queueName": "user-data", "jobId": 7}, "#/jobId"),
    ],
)
def test_wrong_input_is_pointed_at(
    ask_as: Any, server: JobServer, path: str, body: Any, pointer: str
) -> None:
    problem = assert_problem(ask_as("admin").post(path, json=body), 422)
    assert [error["pointer"] for error in problem["errors"]] == [pointer]
    assert server.counts()["user-data"]["failed"] == 2


@pytest.mark.parametrize(
    ("query", "pointer"),
    [
        ("start=-1", "#/start"),
        ("start=x", "#/start"),
        ("end=-1", "#/end"),
        ("start=0&end=200", "#/end"),
        ("limit=0", "#/limit"),
        ("limit=201", "#/limit"),
        (f"start={2**31}&end={2**31}", "#/start"),
    ],
)
def test_a_wrong_range_is_pointed_at(viewer: FlaskClient, query: str, pointer: str) -> None:
    problem = assert_problem(viewer.get(f"{S3}/failed?{query}"), 422)
    assert pointer in [error["pointer"] for error in problem["errors"]]


@pytest.mark.parametrize("limit", ["0", "201", "x", ""])
@pytest.mark.parametrize("path", ["recent", "failed"])
def test_a_wrong_limit_is_pointed_at(viewer: FlaskClient, path: str, limit: str) -> None:
    problem = assert_problem(viewer.get(f"{S1}/{path}?limit={limit}"), 422)
    assert [error["pointer"] for error in problem["errors"]] == ["#/limit"]


@pytest.mark.parametrize("path", ["/jobs/cleanup", "/jobs/trigger/user-sync", f"{S3}/clean", RETRY])
@pytest.mark.parametrize("data", [b"{", b"\xff", b"[" * 100_000])
def test_a_body_that_is_no_json_is_malformed(ask_as: Any, path: str, data: bytes) -> None:
    response = ask_as("admin").post(path, data=data, content_type="application/json")
    assert_problem(response, 400)


@every_route
def test_a_route_answers_nothing_but_its_methods(ask_as: Any, route: Route) -> None:
    response = ask_as("admin").delete(route.path)
    assert_problem(response, 405)
    assert route.method in response.headers["Allow"]


def test_a_path_beside_the_queues_is_no_queue(ask_as: Any) -> None:
    admin = ask_as("admin")
    for response in (
        admin.post("/api/jobs/monitoring?action=empty"),
        admin.options("/api/jobs/monitoring"),
    ):
        assert set(response.headers["Allow"].split(", ")) == {"GET", "HEAD", "OPTIONS"}
    assert_problem(admin.post("/api/jobs/monitoring?action=empty"), 405)
    assert_problem(admin.post("/api/jobs/Monitoring-2?action=empty"), 404)
    assert_problem(admin.get("/api/jobs/monitorin"), 404)


def test_a_webhook_needs_no_role_and_is_not_built_yet(ask_as: Any) -> None:
    assert_problem(OPEN.ask(ask_as(None)), 501)
    assert_problem(replace(OPEN, method="GET").ask(ask_as(None)), 405)


@pytest.mark.parametrize(
    "path",
    [f"{S1}/queue/stats", "/jobs/status", "/api/v1/queues/stats", "/api/jobs/monitoring", S4],
)
def test_statistics_cost_one_round_trip(
    viewer: FlaskClient, server: JobServer, redis: Redis, path: str
) -> None:
    assert viewer.get(path).status_code == 200  # it loads the scripts, where they are not yet
    assert round_trips(redis, lambda: viewer.get(path)) == 1


FILL = """
local kind, origin, first, last = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
for n = first, last do
  if kind == 'queue' then redis.call('RPUSH', 'rq:queue:' .. origin, 'job-' .. n)
  else redis.call('ZADD', 'rq:' .. kind .. ':' .. origin, n, 'job-' .. n) end
end
"""


@pytest.mark.soak
@pytest.mark.parametrize("path", ["/api/v1/queues/stats", "/api/jobs/monitoring"])
def test_a_million_jobs_cost_statistics_no_more_than_a_thousand(
    viewer: FlaskClient, server: JobServer, valkey: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs: dict[int, list[float]] = {1_000: [], 1_000_000: []}
    brokers = []
    for database, count in enumerate(jobs, start=8):
        broker = Broker(connect(valkey.removesuffix("/0") + f"/{database}"))
        broker.connection.flushdb()
        origins = [(kind, queue) for kind in KINDS for queue in server.registry.queues]
        for kind, origin in origins:
            broker.connection.eval(FILL, 0, kind, origin, 1, -(-count // len(origins)))
        brokers.append((broker, jobs[count]))
    try:
        # In turn, or the machine's moods would count.
        for number in range(1000):
            for broker, times in brokers:
                monkeypatch.setattr(server, "broker", broker)
                started = time.perf_counter()
                text = viewer.get(path).text
                if number >= 100:
                    times.append(time.perf_counter() - started)
        assert text.count(str(-(-1_000_000 // len(origins)))) >= len(origins)
    finally:
        for broker, _ in brokers:
            broker.connection.flushdb()
            broker.connection.close()
    few, many = (statistics.median(times) for times in jobs.values())
    print(f"{path}: {few * 1000:.2f} ms with 1,000 jobs, {many * 1000:.2f} ms with 1,000,000")
    assert many == pytest.approx(few, rel=0.2)


def test_the_document_describes_the_routes_with_their_roles_and_bodies(viewer: FlaskClient) -> None:
    found = viewer.get("/openapi.json").get_json()
    stats = found["paths"]["/api/v1/queues/stats"]["get"]["responses"]["200"]
    assert stats["content"]["application/json"]["schema"] == {
        "type": "object",
        "additionalProperties": {"$ref": "#/components/schemas/QueueStatistics"},
    }
    assert "QueueStatistics" in found["components"]["schemas"]
    for route in (route for route in ROUTES if "action=" not in route.path):
        operation = operation_of(found, route)
        assert f"`{route.role}`" in operation["description"], route
        assert str(route.status) in operation["responses"], route
    clean_up = found["paths"]["/jobs/cleanup"]["post"]
    assert clean_up["requestBody"]["required"] is False
    assert "`admin`" in clean_up["description"]
    follow = found["paths"]["/api/webhooks/{platform}"]["post"]
    assert follow["security"] == []


def operation_of(document: dict[str, Any], route: Route) -> Any:
    """Return what the document says of a route."""
    path = route.path.partition("?")[0]
    matching = [
        template
        for template in document["paths"]
        if re.fullmatch(re.sub(r"{\w+}", "[^/]+", template), path)
    ]
    # A path without a place to fill in comes before one with.
    template = min(matching, key=lambda template: template.count("{"))
    return document["paths"][template][route.method.lower()]
