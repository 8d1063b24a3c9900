"""Run a command and start it again when a source changes: `python -m jobserver.reload COMMAND`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType

SUFFIXES = (".py", ".lua", ".html")
EVERY = 0.5  # seconds between two looks at the sources


def sources(root: Path) -> Iterator[Path]:
    """Yield the source files below `root`, without hidden, instance and test directories."""
    for directory, names, files in os.walk(root):
        names[:] = [
            name
            for name in names
            if not name.startswith(".") and name not in ("instance", "tests", "node_modules")
        ]
        yield from (Path(directory, name) for name in files if name.endswith(SUFFIXES))


def changes(root: Path) -> dict[Path, int]:
    """Return the time of the last change of every source, in nanoseconds."""
    found = {}
    for path in sources(root):
        try:
            found[path] = path.stat().st_mtime_ns
        except FileNotFoundError:  # an editor replaces files
            continue
    return found


def run(command: Sequence[str], *, root: Path) -> int:
    """Keep `command` running until SIGTERM or SIGINT, then return its exit code.

    A command that ended by itself, of a syntax error for one, is started at the next change.
    """
    ending = threading.Event()
    child = subprocess.Popen(command)  # noqa: S603  # it is our own command line

    def end(signum: int, _frame: FrameType | None) -> None:
        ending.set()
        if child.poll() is None:
            child.send_signal(signum)

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    seen = changes(root)
    while not ending.wait(EVERY):
        now = changes(root)
        if now == seen:
            continue
        changed = sorted(str(path) for path, _ in set(now.items()) ^ set(seen.items()))
        print(f"{changed[0]} has changed: starting {command[0]} again", flush=True)
        seen = now
        child.terminate()
        child.wait()
        if not ending.is_set():
            child = subprocess.Popen(command)  # noqa: S603
    return child.wait()


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:], root=Path.cwd()))
