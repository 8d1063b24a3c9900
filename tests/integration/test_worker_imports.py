"""A worker loads the application without what only answering requests takes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ABSENT = (
    *("jobserver.http", "jobserver.admin", "jobserver.cli", "jobs.site", "jobs.follows.routes"),
    *("flask_smorest", "rq_dashboard", "rq_scheduler", "alembic", "flask_migrate"),
)
SCRIPT = """
import json, sys
from jobserver.worker import Worker
worker = Worker(["default"])
app = worker.server.app
try:
    app.test_client().get("/health")
    answer = "answered"
except RuntimeError as error:
    answer = str(error)
memory = [line for line in open("/proc/self/status") if line.startswith("VmRSS")]
queues = sorted(worker.server.registry.queues)
print(json.dumps([answer, queues, sorted(sys.modules), int(memory[0].split()[1]) / 1024]))
"""


def test_a_worker_imports_no_pages_no_api_and_no_migrations(tmp_path: Path, valkey: str) -> None:
    environment = {
        **os.environ,
        "JOBSERVER_INSTANCE": str(tmp_path),
        "JOBSERVER_APP": "wsgi:app",
        "REDIS_URL": valkey,
    }
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, check=True, env=environment, text=True
    )
    answer, queues, modules, mib = json.loads(done.stdout.splitlines()[-1])
    assert [name for name in modules if name.startswith(ABSENT) or ".migrations" in name] == []
    assert answer == "this process was loaded without routes: it answers no requests"
    assert "product-sync" in queues
    assert mib < 5 * 90, "`python -m benchmarks memory` measures it"
