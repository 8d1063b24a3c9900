"""`/health`: what a load balancer and a person learn without a token."""

from __future__ import annotations

import pytest
from flask.testing import FlaskClient
from redis import Redis
from rq import SimpleWorker as StockWorker

from jobserver import Every, JobServer
from jobserver.broker.entries import Entries
from jobserver.scheduler import Scheduler
from tests.integration.web.conftest import MakeShop
from tests.integration.web.shop import send_letter

CLOSED = "redis://127.0.0.1:1/0"


def test_health_has_the_seeds_shape(visitor: FlaskClient) -> None:
    response = visitor.get("/engine/health")
    found = response.get_json()
    assert response.status_code == 200
    assert set(found) == {"status", "timestamp", "uptime", "database", "redis", "jobs"}
    assert found["status"] == "OK"
    assert found["uptime"] >= 0
    assert found["database"]["status"] == "connected"
    assert found["database"]["responseTime"] >= 0
    assert found["jobs"] == {"initialized": False}


def test_jobs_are_initialized_while_a_scheduler_serves_all_entries(
    visitor: FlaskClient, server: JobServer
) -> None:
    server.registry.add_entry(
        Every(seconds=60, job=send_letter, payload={"to": "ada"}, id="hourly")
    )
    scheduler = Scheduler(server)
    scheduler.heartbeat()
    assert visitor.get("/engine/health").get_json()["jobs"] == {"initialized": False}
    Entries(server.broker).declare(scheduler.declared(), prune=False)
    assert visitor.get("/engine/health").get_json()["jobs"] == {"initialized": True}
    scheduler.register_death()
    assert visitor.get("/engine/health").get_json()["jobs"] == {"initialized": False}


@pytest.mark.parametrize("path", ["/engine/health", "/engine/health/ready"])
def test_without_redis_health_is_a_503(make_shop: MakeShop, path: str) -> None:
    response = make_shop(redis_url=CLOSED).test_client().get(path)
    assert response.status_code == 503
    found = response.get_json()
    assert found["status"] in ("ERROR", "fail")
    assert "127.0.0.1:1" not in response.get_data(as_text=True)


def test_without_redis_the_process_still_lives(make_shop: MakeShop) -> None:
    response = make_shop(redis_url=CLOSED).test_client().get("/engine/health/live")
    assert (response.status_code, response.get_json()) == (200, {"status": "pass"})


def test_ready_follows_the_health_draft(visitor: FlaskClient) -> None:
    response = visitor.get("/engine/health/ready")
    assert response.content_type == "application/health+json"
    found = response.get_json()
    for name in ("redis:responseTime", "database:responseTime"):
        (check,) = found["checks"][name]
        assert check["status"] == "pass"
        assert check["observedUnit"] == "ms"
        assert check["componentType"] == "datastore"


def test_ready_warns_when_nobody_runs_jobs(
    visitor: FlaskClient, server: JobServer, redis: Redis
) -> None:
    queue, *others = server.registry.queues

    def ready() -> tuple[str, dict[str, str]]:
        response = visitor.get("/engine/health/ready")
        assert response.status_code == 200
        found = response.get_json()
        return found["status"], {name: one["status"] for name, (one,) in found["checks"].items()}

    status, checks = ready()
    assert status == "warn"
    assert (checks["workers:count"], checks["scheduler:heartbeatAge"]) == ("warn", "warn")
    assert checks[f"queue:{queue}:oldestAge"] == "pass"
    server.enqueue(send_letter, {"to": "ada"})
    waits = f"queue:{send_letter.queue.name}:oldestAge"
    assert ready()[1][waits] == "warn"
    Scheduler(server).heartbeat()
    StockWorker([queue, *others], connection=redis).register_birth()
    status, checks = ready()
    assert status == "pass"
    assert set(checks.values()) == {"pass"}
    assert f"queue:{queue}:oldestAge" in checks


def test_health_is_never_cached(visitor: FlaskClient) -> None:
    assert visitor.get("/engine/health").headers["Cache-Control"] == "no-store"
