"""`/metrics`: read by the official parser, true to what happened, and as cheap with many jobs."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import pytest
from flask.testing import FlaskClient
from prometheus_client import Metric
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families
from redis import Redis
from sqlalchemy import insert

from jobserver import JobServer
from jobserver.broker import keys, metrics
from jobserver.broker.entries import SCHEDULERS, Entries
from jobserver.broker.entry import Entry
from jobserver.histogram import BUCKETS, Histogram
from jobserver.ledger import series
from jobserver.ledger.models import position
from jobserver.ledger.series import End
from jobserver.recorder import Recorder
from jobserver.scheduler.housekeeping import chores
from jobserver.testing import work
from tests.hands import Hand, request_of, round_trips
from tests.integration.web.conftest import AskAs, MakeShop
from tests.integration.web.shop import db, send_letter

PROMETHEUS = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;q=0.4,"
    "text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)


def scraped(client: FlaskClient, path: str = "/engine/metrics") -> dict[str, float]:
    """Return the samples of a scrape, by name and labels as they are written."""
    response = client.get(path)
    assert response.status_code == 200
    return samples(list(text_string_to_metric_families(response.text)))


def samples(families: list[Metric]) -> dict[str, float]:
    found = {}
    for sample in (sample for family in families for sample in family.samples):
        labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
        found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


def test_a_scrape_tells_what_happened(admin: FlaskClient, server: JobServer) -> None:
    send_letter.enqueue(to="ada")
    work()
    send_letter.enqueue(to="lost", text="illegal")
    work()
    send_letter.enqueue(to="twice")
    send_letter.enqueue(to="twice")
    server.enqueue(send_letter, {"to": "later"}, delay=60)
    hand = Hand(server.broker, list(server.registry.queues.values()))
    send_letter.enqueue(to="running")
    hand.take()
    server.pause("mail")
    found = scraped(admin)
    expected = {
        "jobserver_up": 1,
        "jobserver_jobs{queue=mail,state=waiting}": 1,
        "jobserver_jobs{queue=mail,state=active}": 1,
        "jobserver_jobs{queue=mail,state=delayed}": 1,
        "jobserver_jobs{queue=mail,state=completed}": 1,
        "jobserver_jobs{queue=mail,state=failed}": 1,
        "jobserver_jobs{queue=mail,state=canceled}": 0,
        "jobserver_jobs_enqueued_total{queue=mail}": 5,
        "jobserver_jobs_completed_total{queue=mail}": 1,
        "jobserver_jobs_failed_total{queue=mail}": 1,
        "jobserver_jobs_canceled_total{queue=mail}": 0,
        "jobserver_jobs_retried_total{queue=mail}": 0,
        "jobserver_jobs_deduplicated_total{queue=mail}": 1,
        "jobserver_queue_paused{queue=mail}": 1,
        "jobserver_queue_workers{queue=mail}": 0,
        "jobserver_slots_busy{executor=process}": 1,
        "jobserver_slots_busy{executor=thread}": 0,
        "jobserver_leases": 1,
        "jobserver_leases_expired": 0,
    }
    assert expected == {name: found.get(name) for name in expected}
    assert found["jobserver_redis_memory_used_bytes"] > 0
    assert found["jobserver_redis_memory_used_bytes"] < found["jobserver_redis_memory_max_bytes"]


def test_both_formats_are_read_by_the_official_parsers(admin: FlaskClient) -> None:
    plain = admin.get("/engine/metrics")
    assert plain.content_type == "text/plain; version=0.0.4; charset=utf-8"
    scrape = admin.get("/engine/metrics", headers={"Accept": PROMETHEUS})
    assert scrape.content_type == "application/openmetrics-text; version=1.0.0; charset=utf-8"
    strict = list(openmetrics.text_string_to_metric_families(scrape.text))
    lenient = list(text_string_to_metric_families(plain.text))
    assert set(samples(strict)) == set(samples(lenient))
    assert all(family.documentation for family in strict)


@pytest.mark.parametrize(
    "accept", ["", "text/html", "application/openmetrics-text;version=x;q=0.1,text/plain;version=y"]
)
def test_who_accepts_something_else_gets_plain_text(admin: FlaskClient, accept: str) -> None:
    response = admin.get("/engine/metrics", headers={"Accept": accept})
    assert response.content_type.startswith("text/plain")


def test_ages_grow_and_what_is_silent_shows(
    admin: FlaskClient, server: JobServer, redis: Redis
) -> None:
    found = scraped(admin)
    assert found["jobserver_scheduler_silence_seconds"] == float("inf")
    for calm in (
        "jobserver_queue_oldest_waiting_age_seconds{queue=mail}",
        "jobserver_queue_overdue_seconds{queue=mail}",
        "jobserver_lease_age_seconds",
        "jobserver_scheduler_lag_seconds",
    ):
        assert found[calm] == 0
    now = time.time()
    job = send_letter.enqueue(to="ada")
    redis.hset(f"rq:job:{job.id}", "enqueued_at", "2020-01-01T00:00:00.000000Z")
    later = server.enqueue(send_letter, {"to": "later"}, delay=60)
    redis.zadd("rq:scheduled:mail", {later.id: now - 100})
    redis.zadd("rq:scheduled:mail:high", {"not-yet": now + 100})
    redis.zadd("rq:scheduled:mail:low", {"less": now - 50})
    entry = Entry(id="tick", type="shop.send_letter", seconds=60, payload={})
    Entries(server.broker).declare([entry], prune=False)
    redis.zadd("jobserver:due", {"tick": (now - 200) * 1000})
    redis.zadd(SCHEDULERS, {"gone": now - 300, "there": now})
    redis.zadd("jobserver:leases", {"a:1": (now - 5) * 1000, "b:1": (now + 15) * 1000})
    found = scraped(admin)
    age = now - 1577836800
    assert found["jobserver_queue_oldest_waiting_age_seconds{queue=mail}"] == pytest.approx(age)
    assert found["jobserver_queue_overdue_seconds{queue=mail}"] == pytest.approx(100, abs=5)
    assert found["jobserver_scheduler_lag_seconds"] == pytest.approx(200, abs=5)
    assert found["jobserver_schedules_due"] == 1
    assert found["jobserver_schedulers"] == 1
    assert found["jobserver_scheduler_silence_seconds"] < 5
    assert (found["jobserver_leases"], found["jobserver_leases_expired"]) == (2, 1)
    assert found["jobserver_lease_age_seconds"] == pytest.approx(15 + 5, abs=5)


def test_recurring_entries_show_by_state(
    admin: FlaskClient, server: JobServer, redis: Redis
) -> None:
    entries = Entries(server.broker)
    names = ("one", "two", "held", "stuck")
    every = [Entry(id=name, type="shop.send_letter", seconds=60, payload={}) for name in names]
    entries.declare(every, prune=False)
    entries.hold("held")
    entries.park([("stuck", int(redis.zscore("jobserver:due", "stuck") or 0), "no such type")])
    found = scraped(admin)
    states = {s: found[f"jobserver_schedules{{state={s}}}"] for s in ("active", "paused", "parked")}
    assert states == {"active": 2, "paused": 1, "parked": 1}
    assert found["jobserver_schedules{state=ended}"] == 0


def test_a_worker_counts_for_its_queues_while_it_beats(admin: FlaskClient, redis: Redis) -> None:
    def register(name: str, *, queues: str, beat: str, **slots: int) -> None:
        redis.sadd("rq:workers", f"rq:worker:{name}")
        facts = {"queues": queues, "last_heartbeat": beat, "birth": beat, **slots}
        redis.hset(f"rq:worker:{name}", mapping=facts)

    now = time.strftime("%Y-%m-%dT%H:%M:%S.000000Z", time.gmtime())
    ago = time.strftime("%Y-%m-%dT%H:%M:%S.000000Z", time.gmtime(time.time() - 300))
    register("ours", queues="mail:high,mail,mail:low", beat=now, process_slots=2, thread_slots=10)
    register("other", queues="else", beat=now, process_slots=4, thread_slots=0)
    register("lost", queues="mail", beat=ago, process_slots=8, thread_slots=8)
    register("stock", queues="mail", beat=ago)
    redis.sadd("rq:workers", "rq:worker:only-a-name")
    found = scraped(admin)
    assert found["jobserver_workers"] == 3
    assert found["jobserver_queue_workers{queue=mail}"] == 2
    assert found["jobserver_slots{executor=process}"] == 6
    assert found["jobserver_slots{executor=thread}"] == 10


def test_all_of_rq_suspended_shows_as_every_queue_paused(admin: FlaskClient, redis: Redis) -> None:
    assert scraped(admin)["jobserver_queue_paused{queue=mail}"] == 0
    redis.set("rq:suspended", 1)
    assert scraped(admin)["jobserver_queue_paused{queue=mail}"] == 1


def test_histograms_are_cumulative_and_never_go_back(admin: FlaskClient, server: JobServer) -> None:
    waits = Histogram(counts=[2, 3, *[0] * (BUCKETS - 3), 4], seconds=20_000.5)
    assert metrics.publish(server.broker, position="7-10", histograms={("mail", "wait"): waits})
    for older in ("7-9", "6-11"):
        assert not metrics.publish(server.broker, position=older, histograms={})
    found = scraped(admin)
    assert found["jobserver_job_wait_seconds_bucket{le=0.001,queue=mail}"] == 2
    assert found["jobserver_job_wait_seconds_bucket{le=3600.0,queue=mail}"] == 5
    assert found["jobserver_job_wait_seconds_bucket{le=+Inf,queue=mail}"] == 9
    assert found["jobserver_job_wait_seconds_count{queue=mail}"] == 9
    assert found["jobserver_job_wait_seconds_sum{queue=mail}"] == 20_000.5
    assert found["jobserver_job_run_seconds_count{outcome=failed,queue=mail}"] == 0
    assert metrics.publish(server.broker, position="7-11", histograms={})
    assert scraped(admin)["jobserver_job_wait_seconds_count{queue=mail}"] == 0


def test_the_scheduler_publishes_what_the_ledger_counted(
    admin: FlaskClient, server: JobServer
) -> None:
    values = {"id": 1, "position": "5-1", "events": 1, "recorded_at": datetime.now(UTC)}
    with db.engine.begin() as connection:
        series.add(connection, [End("mail", "failed", 60_000, 30, 4000)])
        connection.execute(insert(position).values(values))
    (publish,) = (one for one in chores(server) if one.name == "histograms for scrapes")
    assert publish.attempt()
    found = scraped(admin)
    assert found["jobserver_job_run_seconds_count{outcome=failed,queue=mail}"] == 1
    assert found["jobserver_job_run_seconds_sum{outcome=failed,queue=mail}"] == 4
    assert found["jobserver_job_wait_seconds_bucket{le=0.02,queue=mail}"] == 0
    assert found["jobserver_job_wait_seconds_bucket{le=0.05,queue=mail}"] == 1


def test_how_far_the_ledger_is_behind_shows_in_events_and_seconds(
    admin: FlaskClient, server: JobServer, redis: Redis
) -> None:
    def lag() -> tuple[float, float, float]:
        found = scraped(admin)
        names = ("recorder_lag_events", "recorder_lag_seconds")
        return (found["jobserver_events"], *(found[f"jobserver_{name}"] for name in names))

    recorder = Recorder(server, db.engine)
    assert lag() == (0, 0, 0)
    ago = int(time.time() - 100) * 1000
    redis.xadd(keys.EVENTS, {"event": "paused", "job": "", "run": ""}, id=f"{ago}-1")
    assert lag() == (1, 1, pytest.approx(100, abs=10))
    recorder.work()
    assert lag() == (1, 0, 0)
    server.enqueue_many(send_letter, [{"to": str(n)} for n in range(9)])
    events, lacking, seconds = lag()
    assert (events, lacking) == (10, 9)
    assert 0 < seconds < 60
    redis.delete(keys.RECORDER)  # as when it was killed before it could say so
    recorder.work()
    assert lag() == (10, 0, 0)
    redis.xtrim(keys.EVENTS, maxlen=4, approximate=False)
    server.enqueue_many(send_letter, [{"to": f"more-{n}"} for n in range(2)])
    assert lag()[:2] == (6, 2)
    recorder.close()


def test_a_full_backlog_shows_beside_its_bound(make_shop: MakeShop, redis: Redis) -> None:
    shop = make_shop(ledger_backlog_mib=1, open_routes=frozenset({"metrics"}))
    server: JobServer = shop.extensions["jobserver"]
    server.broker.recorded("0-0", events=0)

    def backlog() -> tuple[float, float]:
        found = scraped(shop.test_client())
        names = ("recorder_backlog_bytes", "recorder_backlog_max_bytes")
        taken, most = (found[f"jobserver_{name}"] for name in names)
        return taken / most, found["jobserver_recorder_backlog_full"]

    assert backlog() == (0, 0)
    event = {"event": "paused", "job": "", "run": "", "reason": "x" * 10_000}
    for _ in range(150):
        redis.xadd(keys.EVENTS, event)
    server.broker.backlog()
    share, is_full = backlog()
    assert 1.2 < share < 3
    assert is_full == 1


def test_without_redis_a_scrape_says_so(make_shop: MakeShop) -> None:
    client = make_shop(
        redis_url="redis://127.0.0.1:1/0", open_routes=frozenset({"metrics"})
    ).test_client()
    found = scraped(client)
    assert found.pop("jobserver_up") == 0
    assert [name.partition("{")[0] for name in found] == ["jobserver_build_info"]


def test_metrics_take_a_viewer_unless_they_are_open(ask_as: AskAs, make_shop: MakeShop) -> None:
    statuses = [ask_as(role).get("/metrics").status_code for role in (None, "user", "viewer")]
    assert statuses == [401, 403, 200]
    opened = make_shop(open_routes=frozenset({"metrics"})).test_client()
    assert opened.get("/engine/metrics").status_code == 200


def test_a_scrape_is_one_round_trip_of_the_same_cost_for_any_number_of_jobs(
    admin: FlaskClient, server: JobServer, redis: Redis
) -> None:
    def cost() -> int:
        before = sum(one["calls"] for one in redis.info("commandstats").values())
        scraped(admin)
        return sum(one["calls"] for one in redis.info("commandstats").values()) - before

    def fill(count: int) -> None:
        server.broker.enqueue([request_of(f"{count}-{n}", queue="mail") for n in range(count)])
        delayed = [request_of(f"d{count}-{n}", queue="mail", due="+9000") for n in range(count)]
        server.broker.enqueue(delayed)

    fill(1)
    scraped(admin)  # loads the scripts
    few = cost()
    fill(1000)
    assert cost() == few
    assert round_trips(redis, lambda: scraped(admin)) == 1
