"""A nest: forks our programs out of one process that has imported all, which saves a second each.

Reads a JSON object per line. An order has arguments (`rq …`, `flask …`, or `python -m module …`),
settings (environment), and log (path); it is answered with the pid of a process that begins when it
is let go. A question has a pid, and is answered with its exit status, null while it lives.
"""

from __future__ import annotations

import json
import os
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import psutil

ROOT = Path(__file__).parent.parent


class Hatched(psutil.Process):
    """A process out of the nest, with what `subprocess.Popen` has of a child's end."""

    def __init__(self, nest: Nest, pid: int) -> None:
        super().__init__(pid)
        self._nest = nest

    def poll(self) -> int | None:
        """Return the exit status, negative for a signal; None while it lives."""
        status = self._nest.ask({"pid": self.pid})
        return None if status is None else int(status)

    def wait(self, timeout: float | None = None) -> int | None:
        """Return the exit status when it has ended; raises psutil.TimeoutExpired."""
        super().wait(timeout)
        while (status := self.poll()) is None:  # it is a zombie yet
            time.sleep(0.001)
        return status

    def end(self) -> None:
        """Kill it, if it lives."""
        if self.poll() is None:
            self.kill()
        self.wait(10)


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
        self._hatched: list[Hatched] = []

    def start(self, *arguments: str, log: Path, **settings: str) -> Hatched:
        """Start a command line, with settings on top of our environment."""
        order = {"arguments": arguments, "settings": {**os.environ, **settings}, "log": str(log)}
        hatched = Hatched(self, self.ask(order))
        self._hatched.append(hatched)
        self.ask({"go": hatched.pid})
        return hatched

    def ask(self, order: Mapping[str, Any]) -> Any:
        """Send one line, and return what the answer says."""
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def clear(self) -> None:
        """Kill all that hatched in it and still lives."""
        for process in self._hatched:
            process.end()
        self._hatched.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.clear()
        self._process.kill()
        self._process.communicate()


def _hatch(
    gates: dict[int, int], arguments: list[str], settings: Mapping[str, str], log: str
) -> int:
    waits, opens = os.pipe()
    if pid := os.fork():
        os.close(waits)
        gates[pid] = opens
        return pid
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.close(opens)
    os.read(waits, 1)
    fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, 0), (fd, 1), (fd, 2)):
        os.dup2(source, target)
    os.closerange(3, 64)
    os.environ.clear()
    os.environ.update(settings)
    if arguments[:2] == ["python", "-m"]:
        sys.argv = arguments[2:]
        runpy.run_module(arguments[2], run_name="__main__", alter_sys=True)
        raise SystemExit(0)
    sys.argv = arguments
    _ = rq.cli.main() if arguments[0] == "rq" else flask.cli.main()
    raise AssertionError("unreachable: click exits")


def _serve() -> None:
    ended: dict[int, int] = {}
    gates: dict[int, int] = {}  # pipes that are closed to let a process go

    def reap(*_: object) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            ended[pid] = os.waitstatus_to_exitcode(status)

    signal.signal(signal.SIGCHLD, reap)
    for line in sys.stdin:
        order: dict[str, Any] = json.loads(line)
        if "go" in order:
            ended.pop(order["go"], None)  # another process of long ago
            answer = os.close(gates.pop(order["go"]))
        else:
            answer = ended.get(order["pid"]) if "pid" in order else _hatch(gates, **order)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    import flask.cli
    import flask_sqlalchemy  # noqa: F401
    import rq.cli

    import tests.engine_app
    import tests.safety_app
    import tests.safety_jobs  # noqa: F401

    _serve()
