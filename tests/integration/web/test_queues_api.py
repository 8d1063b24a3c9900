"""`/api/v1/queues`, `/types` and `/workers`: what an operator's page shows."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from flask.testing import FlaskClient
from marshmallow import Schema, fields
from redis import Redis

from jobserver import JobServer, Queue, job
from jobserver.http.queues_v1 import QueueSchema
from jobserver.http.types_v1 import payload_schema
from jobserver.http.workers_v1 import WorkerSchema
from jobserver.testing import work
from tests.integration.web.shop import claim, send_letter

API = "/engine/api/v1"


def test_queues_are_listed_with_counts_and_limits(admin: FlaskClient, server: JobServer) -> None:
    send_letter.enqueue(to="ada")
    work()
    server.enqueue(send_letter, {"to": "b"}, delay=60)
    server.enqueue(send_letter, {"to": "c"}, priority="low")
    (found,) = admin.get(f"{API}/queues").get_json()["items"]
    assert QueueSchema().validate(found) == {}
    assert (found["name"], found["key"], found["pause"]) == ("mail", "MAIL", None)
    assert found["counts"] == {
        "waiting": 1,
        "active": 0,
        "delayed": 1,
        "completed": 1,
        "failed": 0,
        "canceled": 0,
    }
    assert found["retention"]["completedCount"] == 1000
    assert admin.get(f"{API}/queues/MaIl").get_json() == found


def test_a_pause_is_shown_with_its_end_and_reason(admin: FlaskClient, server: JobServer) -> None:
    until = datetime(2100, 1, 1, tzinfo=UTC)
    server.pause("mail", until=until.timestamp(), reason="stock-taking")
    assert admin.get(f"{API}/queues/mail").get_json()["pause"] == {
        "until": until.isoformat(),
        "reason": "stock-taking",
    }
    server.pause("mail")
    found = admin.get(f"{API}/queues/mail").get_json()["pause"]
    assert found == {"until": None, "reason": ""}
    server.resume("mail")
    assert admin.get(f"{API}/queues/mail").get_json()["pause"] is None


def test_an_empty_queue_has_lost_what_waited_and_nothing_else(
    admin: FlaskClient, server: JobServer
) -> None:
    send_letter.enqueue(to="running")
    claim(server)
    send_letter.enqueue(to="a")
    server.enqueue(send_letter, {"to": "b"}, delay=60)
    response = admin.post(f"{API}/queues/mail/empty")
    assert (response.status_code, response.get_json()) == (200, {"name": "mail", "removed": 2})
    assert server.counts()["mail"]["active"] == 1
    assert server.counts()["mail"]["waiting"] == 0


@pytest.mark.parametrize("path", ["queues", "queues/mail", "workers"])
def test_numbers_cost_one_round_trip_however_many_jobs_there_are(
    admin: FlaskClient, server: JobServer, redis: Redis, path: str
) -> None:
    server.enqueue_many(send_letter, [{"to": str(number)} for number in range(500)])
    assert admin.get(f"{API}/{path}").status_code == 200  # connects, and loads the script

    def reads() -> int:
        before = redis.info("stats")["total_reads_processed"]
        assert admin.get(f"{API}/{path}").status_code == 200
        return int(redis.info("stats")["total_reads_processed"]) - before

    # The server reads from its clients twice: the request's one round trip, and this question; and
    # once in a while from others.
    assert min(reads() for _ in range(3)) == 2


class LineSchema(Schema):
    amount = fields.Integer(required=True)


class Order(Schema):
    lines = fields.List(fields.Nested(LineSchema), required=True)
    above = fields.Nested(lambda: Order(only=("lines",)))
    note = fields.String(allow_none=True)


def the_type(client: FlaskClient, name: str) -> Any:
    items = client.get(f"{API}/types").get_json()["items"]
    return next(item for item in items if item["name"] == name)


def test_types_have_the_schema_of_their_payload(admin: FlaskClient) -> None:
    found = the_type(admin, "shop.send_letter")
    assert found["description"].startswith("Send a letter")
    assert (found["queue"], found["key"], found["attempts"]) == ("mail", "letter-{to}", 2)
    schema = found["payloadSchema"]
    assert schema["$schema"].endswith("2020-12/schema")
    assert schema["required"] == ["to"]
    assert schema["properties"]["text"] == {"type": "string", "default": ""}
    assert schema["additionalProperties"] is False


def test_a_user_may_know_the_types(ada: FlaskClient) -> None:
    assert ada.get(f"{API}/types").status_code == 200


def test_a_nested_payload_has_its_parts_beside_it(admin: FlaskClient, server: JobServer) -> None:
    server.registry.add(job(queue="mail", schema=Order, name="shop.order")(lambda **_: None))
    found = the_type(admin, "shop.order")["payloadSchema"]
    assert found["properties"]["lines"]["items"] == {"$ref": "#/$defs/Line"}
    assert found["$defs"]["Line"]["required"] == ["amount"]
    document = admin.get("/engine/openapi.json").get_json()
    parts = document["components"]["schemas"]
    assert parts["shop.order.payload"]["properties"]["lines"]["items"] == {
        "$ref": "#/components/schemas/shop.order.payload.Line"
    }
    variants = {one["title"]: one for one in parts["JobRequest"]["oneOf"]}
    assert set(variants) == set(server.registry.types) >= {"shop.order", "shop.send_letter"}
    assert variants["shop.order"]["properties"]["type"] == {"const": "shop.order"}


def test_a_type_without_a_schema_is_described_by_its_function() -> None:
    @job(queue="mail", name="shop.plain")
    def plain(a: int, b: str = "", **rest: Any) -> None: ...

    @job(queue="mail", name="shop.strict")
    def strict(*, a: int) -> None: ...

    found = payload_schema(plain).whole
    assert (found["required"], set(found["properties"])) == (["a"], {"a", "b"})
    assert found["additionalProperties"] is True
    assert payload_schema(strict).whole["additionalProperties"] is False


def test_workers_are_shown_with_all_their_jobs(
    admin: FlaskClient, server: JobServer, redis: Redis
) -> None:
    for to in ("a", "b"):
        send_letter.enqueue(to=to)
    held = claim(server)
    name = "tester"
    redis.sadd("rq:workers", f"rq:worker:{name}", "rq:worker:gone")
    redis.hset(
        f"rq:worker:{name}",
        mapping={
            "queues": "mail:high,mail,mail:low",
            "state": "busy",
            "pid": "17",
            "hostname": "h",
            "birth": "2026-01-01T00:00:00.000000Z",
            "last_heartbeat": "2026-01-01T00:00:01.000000Z",
            "process_slots": "2",
            "successful_job_count": "5",
        },
    )
    redis.sadd(f"rq:worker:{name}:executions", *(one.entry for one in held))
    (found,) = admin.get(f"{API}/workers").get_json()["items"]
    assert WorkerSchema().validate(found) == {}
    assert (found["name"], found["state"], found["pid"]) == (name, "busy", 17)
    assert found["queues"] == ["mail"]
    assert (found["processSlots"], found["threadSlots"]) == (2, None)
    assert (found["completed"], found["failed"]) == (5, 0)
    assert [(one["id"], one["queue"], one["attempt"]) for one in found["jobs"]] == [
        ("letter-a", "mail", 1),
        ("letter-b", "mail", 1),
    ]


def test_queues_that_are_not_declared_are_unknown(admin: FlaskClient) -> None:
    for path in ("queues/nothing", "queues/nothing/jobs", f"jobs?queue={'q' * 300}"):
        response = admin.get(f"{API}/{path}")
        assert response.status_code == 404
        assert response.get_json()["type"] == "#unknown-queue"


def test_a_queue_by_another_name_is_the_same_queue(admin: FlaskClient) -> None:
    assert Queue("mail").name == "mail"
    send_letter.enqueue(to="ada")
    for name in ("mail", "MAIL", "mAiL"):
        found = admin.get(f"{API}/queues/{name}/jobs").get_json()["items"]
        assert [one["id"] for one in found] == ["letter-ada"]
