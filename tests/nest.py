"""A nest: forks `rq` and `flask` processes out of one that has imported all, which saves a second.

Reads a JSON object per line: arguments, settings (environment), log (path); answers with the pid.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import psutil

ROOT = Path(__file__).parent.parent


class Nest:
    """The nest as a test sees it; all that hatched in it is killed at its end."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.nest"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._hatched: list[psutil.Process] = []

    def start(self, *arguments: str, log: Path, **settings: str) -> psutil.Process:
        """Start a command line of `rq` or `flask`, with settings on top of our environment."""
        assert self._process.stdin and self._process.stdout
        environment = {**os.environ, **settings}
        order = {"arguments": arguments, "settings": environment, "log": str(log)}
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        self._hatched.append(psutil.Process(int(self._process.stdout.readline())))
        return self._hatched[-1]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._hatched:
            if process.is_running():
                process.kill()
        psutil.wait_procs(self._hatched, timeout=10)
        self._process.kill()
        self._process.communicate()


def _hatch(arguments: list[str], settings: Mapping[str, str], log: str) -> int:
    if pid := os.fork():
        return pid
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, 0), (fd, 1), (fd, 2)):
        os.dup2(source, target)
    os.closerange(3, 64)
    os.environ.clear()
    os.environ.update(settings)
    sys.argv = arguments
    _ = rq.cli.main() if arguments[0] == "rq" else flask.cli.main()
    raise AssertionError("unreachable: click exits")


def _serve() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the dead here
    for line in sys.stdin:
        order: dict[str, Any] = json.loads(line)
        print(_hatch(**order), flush=True)


if __name__ == "__main__":
    import flask.cli
    import rq.cli

    import tests.ledger_app
    import tests.ledger_jobs
    import tests.safety_app
    import tests.safety_jobs  # noqa: F401

    _serve()
