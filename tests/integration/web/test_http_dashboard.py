"""rq-dashboard at /rq: it shows what stands in Redis, changes nothing, and never fails on it."""

from __future__ import annotations

from typing import Any

import pytest
import rq
from flask import Flask
from flask.testing import FlaskClient
from redis import Redis
from rq.rate_limit import RateLimitRegistry
from rq.registry import ReadyJobRegistry

from jobserver import JobServer
from jobserver.admin.dashboard import REGISTRIES
from tests.integration.web.conftest import MakeShop
from tests.integration.web.shop import TOKEN, claim, send_letter

RQ = "/engine/rq"
SCRIPT = "<script>alert(1)</script>"


def jobs(
    client: FlaskClient,
    *,
    registry: str = "queued",
    page: Any = 1,
    size: Any = 8,
    order: str = "asc",
) -> list[str]:
    path = f"{RQ}/0/data/jobs/mail/{registry}/{size}/{order}/{page}.json"
    response = client.get(path)
    assert response.status_code == 200
    return [found["id"] for found in response.get_json()["jobs"]]


def enqueue(count: int) -> list[str]:
    server_jobs = [send_letter.enqueue(to=f"n{number:02}") for number in range(count)]
    return [job.id for job in server_jobs]


def stock_job(redis: Redis, **fields: Any) -> rq.job.Job:
    """A job that another tool made, by RQ's own pickle serializer."""
    return rq.Queue("mail", connection=redis).enqueue("builtins.print", "x", **fields)


@pytest.mark.parametrize("path", ["/", "/0/view/queues", "/0/view/jobs", "/0/view/workers"])
def test_pages_are_shown_to_those_who_signed_in(
    admin: FlaskClient, visitor: FlaskClient, path: str
) -> None:
    enqueue(1)
    page = admin.get(RQ + path, follow_redirects=True)
    assert (page.status_code, page.mimetype) == (200, "text/html")
    assert visitor.get(RQ + path).status_code == 303


def test_everything_below_is_guarded(visitor: FlaskClient) -> None:
    assert visitor.get(f"{RQ}/0/data/queues.json").status_code == 303
    assert visitor.get(f"{RQ}/static/css/main.css").status_code == 303
    assert visitor.post(f"{RQ}/job/x/delete").status_code == 401


def test_queues_are_counted(admin: FlaskClient) -> None:
    enqueue(3)
    (queue,) = admin.get(f"{RQ}/0/data/queues.json").get_json()["queues"]
    assert (queue["name"], queue["count"]) == ("mail", 3)
    assert admin.get(queue["queued_url"]).status_code == 200


@pytest.mark.parametrize("registry", REGISTRIES)
@pytest.mark.parametrize("order", ["asc", "dsc"])
def test_every_registry_of_rq_has_its_page(admin: FlaskClient, registry: str, order: str) -> None:
    assert jobs(admin, registry=registry, order=order) == []
    page = admin.get(f"{RQ}/0/view/jobs/mail/{registry}/8/{order}/1")
    assert page.status_code == 200


@pytest.mark.parametrize("registry", ["queued", "started"])
def test_a_page_holds_what_it_says(admin: FlaskClient, server: JobServer, registry: str) -> None:
    ids = enqueue(20)
    if registry == "started":
        claim(server)
    pages = [jobs(admin, registry=registry, page=page) for page in (1, 2, 3, 4)]
    assert [len(page) for page in pages] == [8, 8, 4, 0]
    forwards = [job_id for page in pages for job_id in page]
    assert sorted(forwards) == ids
    backwards = [jobs(admin, registry=registry, page=page, order="dsc") for page in (1, 2, 3, 4)]
    assert [len(page) for page in backwards] == [8, 8, 4, 0]
    assert [job_id for page in backwards for job_id in page] == forwards[::-1]


@pytest.mark.parametrize(("page", "size"), [(0, 0), (-1, -8), (10**30, 10**30)])
def test_paging_out_of_bounds_is_brought_into_them(
    admin: FlaskClient, page: int, size: int
) -> None:
    ids = enqueue(2)
    assert set(jobs(admin, page=page, size=size)) <= set(ids)


@pytest.mark.parametrize(
    "path",
    [
        "/0/view/job/missing",
        "/0/data/job/missing.json",
        "/0/data/job/odd:id.json",
        "/0/view/jobs/mail/nowhere/8/asc/1",
        "/0/data/jobs/mail/nowhere/8/asc/1.json",
        "/0/data/jobs/mail/queued/x/asc/1.json",
        "/0/data/jobs/mail/queued/8/sideways/1.json",
        "/0/view/jobs/mail/queued/x/asc/1",
        "/1/",
        "/7/data/queues.json",
        "/no/such/page",
        "/static/../../secrets",
        "/static/%2e%2e/%2e%2e/__init__.py",
    ],
)
def test_what_is_not_there_is_a_404(admin: FlaskClient, path: str) -> None:
    response = admin.get(RQ + path)
    assert response.status_code == 404
    assert "Traceback" not in response.get_data(as_text=True)


def test_jobs_that_wait_for_others_are_shown(admin: FlaskClient, redis: Redis) -> None:
    parent = stock_job(redis, job_id="parent")
    stock_job(redis, job_id="child", depends_on=[parent])
    found = admin.get(f"{RQ}/0/data/job/child.json").get_json()
    assert (found["depends_on"], found["depends_on_status"]) == (["parent"], ["active"])
    redis.delete("rq:job:parent")
    found = admin.get(f"{RQ}/0/data/job/child.json").get_json()
    assert found["depends_on_status"] == ["expired"]
    assert jobs(admin, registry="deferred") == ["child"]


def test_ready_and_rate_limited_jobs_are_listed(admin: FlaskClient, redis: Redis) -> None:
    ready = stock_job(redis, job_id="ready")
    ReadyJobRegistry("mail", connection=redis).add(ready, ttl=-1)
    limited = stock_job(redis, job_id="held")
    rates = RateLimitRegistry("post", redis)
    with redis.pipeline() as pipe:
        rates.register(1, pipe)
        rates.add_to_rate_limited(limited.id, pipe)
        pipe.execute()
    assert jobs(admin, registry="ready") == ["ready"]
    assert jobs(admin, registry="rate_limited") == ["held"]


def test_another_tools_results_and_pickles_do_not_fail_the_page(
    admin: FlaskClient, redis: Redis
) -> None:
    queue = rq.Queue("mail", connection=redis)
    queue.enqueue("builtins.set", [1], job_id="set")
    queue.enqueue("builtins.bytes", 3, job_id="bytes")
    queue.enqueue("builtins.int", "x", job_id="failing")
    rq.SimpleWorker([queue], connection=redis).work(burst=True, logging_level="ERROR")
    for job_id in ("set", "bytes", "failing"):
        found = admin.get(f"{RQ}/0/data/job/{job_id}.json")
        assert found.status_code == 200
    assert "ValueError" in found.get_json()["exc_info"]
    assert set(jobs(admin, registry="finished")) == {"set", "bytes"}


def test_a_pickle_is_never_loaded(admin: FlaskClient, redis: Redis, tmp_path: Any) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return (open, (str(tmp_path / "sprung"), "w"))

    job = rq.Queue("mail", connection=redis).enqueue(print, Trap(), meta={"m": Trap()})
    for path in (f"/0/data/job/{job.id}.json", f"/0/view/job/{job.id}"):
        assert admin.get(RQ + path).status_code == 200
    assert jobs(admin) == [job.id]
    assert not (tmp_path / "sprung").exists()


def test_a_job_with_an_unknown_status_does_not_fail_the_page(
    admin: FlaskClient, redis: Redis
) -> None:
    enqueue(2)
    redis.hset("rq:job:letter-n00", "status", "perplexed")
    assert jobs(admin) == ["letter-n00", "letter-n01"]


def test_workers_are_listed_while_they_run_json_jobs(
    admin: FlaskClient, server: JobServer, redis: Redis
) -> None:
    enqueue(3)
    worker = rq.Worker(["mail"], name=claim(server)[0].exec.partition(":")[0], connection=redis)
    worker.register_birth()
    redis.sadd(f"{worker.key}:executions", *(f"letter-n{n:02}:x" for n in range(3)))
    (found,) = admin.get(f"{RQ}/0/data/workers.json").get_json()["workers"]
    assert (found["name"], found["queues"]) == (worker.name, ["mail"])
    assert found["current_job"]["job_id"] == "letter-n00"
    assert found["current_job"]["call_string"].endswith("and 2 more")


def test_looking_at_workers_leaves_our_timeouts_alone(
    admin: FlaskClient, server: JobServer, redis: Redis
) -> None:
    rq.Worker(["mail"], name="w", connection=redis).register_birth()
    before = dict(server.broker.connection.connection_pool.connection_kwargs)
    admin.get(f"{RQ}/0/view/workers")
    admin.get(f"{RQ}/0/data/workers.json")
    assert server.broker.connection.connection_pool.connection_kwargs == before


def test_the_dashboard_uses_the_engines_connections(admin: FlaskClient, redis: Redis) -> None:
    enqueue(1)
    jobs(admin)
    before = redis.info("stats")["total_connections_received"]
    for _ in range(20):
        jobs(admin)
        admin.get(f"{RQ}/0/data/queues.json")
    assert redis.info("stats")["total_connections_received"] == before


WRITES = [
    "/job/letter-n00/delete",
    "/job/letter-n00/requeue",
    "/requeue/mail",
    "/queue/mail/queued/empty",
    "/queue/mail/compact",
]


@pytest.mark.parametrize("path", WRITES)
@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_nothing_is_written(admin: FlaskClient, path: str, method: str) -> None:
    ids = enqueue(2)
    response = admin.open(RQ + path, method=method)
    assert response.status_code == 405
    assert jobs(admin) == ids


def test_the_get_that_requeues_is_refused(admin: FlaskClient) -> None:
    for path in ("/requeue/mail", "/requeue/mail/", "//requeue/mail", "/0/../requeue/mail"):
        assert admin.get(RQ + path, follow_redirects=True).status_code in (404, 405)


def test_buttons_that_would_write_are_not_shown(admin: FlaskClient) -> None:
    enqueue(1)
    pages = [
        admin.get(f"{RQ}/0/view/jobs/mail/{registry}/8/asc/1").get_data(as_text=True)
        for registry in ("queued", "failed")
    ]
    pages.append(admin.get(f"{RQ}/0/view/job/letter-n00").get_data(as_text=True))
    for page in pages:
        for button in ('empty-btn"', 'compact-btn"', 'requeue-all-btn"', 'delete-job-btn"'):
            assert f'id="{button}' not in page


def test_text_is_escaped_wherever_it_comes_from(admin: FlaskClient, redis: Redis) -> None:
    stock_job(redis, job_id="bad", description=SCRIPT)
    rq.Queue(SCRIPT, connection=redis).enqueue("builtins.print")
    for path in (
        "/0/view/job/bad",
        "/0/view/jobs",
        f"/0/view/jobs/{SCRIPT.replace('/', '')}/queued/8/asc/1",
        "/0/view/jobs/'-alert(1)-'/queued/8/asc/1",
    ):
        page = admin.get(RQ + path).get_data(as_text=True)
        assert "<script>alert" not in page
        assert "'-alert(1)-'" not in page


def test_only_the_pages_own_script_may_run(admin: FlaskClient) -> None:
    pages = [admin.get(f"{RQ}/") for _ in range(2)]
    policies = [page.headers["Content-Security-Policy"] for page in pages]
    assert policies[0] != policies[1]
    for policy, page in zip(policies, pages, strict=True):
        scripts = next(part for part in policy.split("; ") if part.startswith("script-src"))
        assert "'unsafe-inline'" not in scripts
        nonce = scripts.partition("'nonce-")[2].partition("'")[0]
        assert f'<script nonce="{nonce}">' in page.get_data(as_text=True)


def test_nothing_comes_from_another_site(admin: FlaskClient) -> None:
    enqueue(1)
    for path in ("/0/view/queues", "/0/view/jobs", "/0/view/workers", "/0/view/job/letter-n00"):
        page = admin.get(RQ + path).get_data(as_text=True)
        assert 'src="http' not in page
        assert 'stylesheet" href="http' not in page


def test_names_in_any_script_are_shown(admin: FlaskClient, redis: Redis) -> None:
    rq.Queue("почта 日本 %2F?&", connection=redis).enqueue("builtins.print", job_id="j")
    (queue,) = admin.get(f"{RQ}/0/data/queues.json").get_json()["queues"]
    assert admin.get(queue["queued_url"]).status_code == 200
    path = f"{RQ}/0/data/jobs/почта 日本 %252F%3F&/queued/8/asc/1.json"
    found = admin.get(path).get_json()
    assert [job["id"] for job in found["jobs"]] == ["j"]
    assert admin.get(found["pagination"]["first_page"]["url"]).status_code == 200
    for missing in ("/0/view/job/ключ", "/日本"):
        assert admin.get(RQ + missing).status_code == 404


def test_redis_password_is_not_shown(make_shop: MakeShop, valkey: str) -> None:
    url = valkey.replace("redis://", "redis://default:a-password@")
    client = make_shop(redis_url=url).test_client()
    page = client.get(f"{RQ}/0/view/workers", headers={"Authorization": f"Bearer {TOKEN}"})
    assert "a-password" not in page.get_data(as_text=True)


def test_without_redis_the_page_says_so(make_shop: MakeShop) -> None:
    client = make_shop(redis_url="redis://127.0.0.1:1/0").test_client()
    headers = {"Authorization": f"Bearer {TOKEN}"}
    for path in ("/0/view/jobs", "/0/data/queues.json", "/0/data/workers.json", "/0/view/job/x"):
        response = client.get(RQ + path, headers=headers)
        assert response.status_code == 503
        assert "Retry-After" in response.headers


def test_two_apps_in_one_process_show_their_own(make_shop: MakeShop, valkey: str) -> None:
    other_url = valkey.removesuffix("/0") + "/1"
    shops: list[Flask] = [make_shop(), make_shop(url_prefix="", redis_url=other_url)]
    for number, app in enumerate(shops):
        with app.app_context():
            app.extensions["jobserver"].broker.connection.flushdb()
            send_letter.enqueue(to=f"shop{number}")
    headers = {"Authorization": f"Bearer {TOKEN}"}
    found = [
        app.test_client().get(f"{prefix}/rq/0/data/jobs/mail/queued/8/asc/1.json", headers=headers)
        for app, prefix in zip(shops, ("/engine", ""), strict=True)
    ]
    assert [[job["id"] for job in f.get_json()["jobs"]] for f in found] == [
        ["letter-shop0"],
        ["letter-shop1"],
    ]
