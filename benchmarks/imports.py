"""How long `import wsgi` takes, against the libraries it stands on."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time

from benchmarks.measure import PAIRS, Report

OURS = "import wsgi"
THEIRS = "import flask, flask_sqlalchemy, flask_smorest, rq"


def run(report: Report) -> None:
    """Import both in fresh interpreters, in turns."""

    def seconds(script: str) -> float:
        with tempfile.TemporaryDirectory() as instance:
            began = time.perf_counter()
            subprocess.run(
                [sys.executable, "-c", script], check=True, env={"JOBSERVER_INSTANCE": instance}
            )
            return time.perf_counter() - began

    pairs = [(seconds(OURS), seconds(THEIRS)) for _ in range(PAIRS)]
    ratio = sorted(ours / theirs for ours, theirs in pairs)[PAIRS // 2]
    report.figure("import wsgi, in imports of its libraries", ratio, at_most=1.5)
