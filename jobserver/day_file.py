"""A log file a day, `combined-YYYY-MM-DD.log` by UTC, that any number of processes write to."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

KEPT_DAYS = 14
REST = 5.0  # seconds between two tries to open a file that cannot be opened
DAY = 86400


class DayFile:
    """A stream for log handlers: each write is one append, so that lines stay whole.

    Nothing is ever renamed: each process opens the day's file itself, and removes old ones. When it
    cannot write, it says so once on stderr, until it can again; nothing is raised.
    """

    def __init__(self, directory: Path, *, clock: Callable[[], float] = time.time) -> None:
        """Make a stream into a directory, which is made too; `clock` returns Unix time."""
        self.directory = directory
        self._clock = clock
        self._file: int | None = None
        self._day = 0
        self._rests_until = 0.0  # Unix time
        self._is_failing = False
        self._is_torn = False  # the last write ended within a line

    def write(self, text: str) -> int:
        """Append lines."""
        now = self._clock()
        if self._file is None and now < self._rests_until:
            return len(text)
        # Whatever is no Unicode text (a file name, PEP 383) is written with escapes.
        data = text.encode(errors="backslashreplace")
        try:
            self._append(self._open(now), b"\n" + data if self._is_torn else data)
            self._is_failing = False
        except OSError as error:
            self._fail(error, now)
        return len(text)

    def flush(self) -> None:
        """Do nothing: a write is through when it returns."""

    def close(self) -> None:
        """Close the file; the next write opens it again."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _open(self, now: float) -> int:
        day = int(now // DAY)
        if self._file is None or day != self._day:
            self.directory.mkdir(parents=True, exist_ok=True)
            path = self.directory / _name(now)
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
            opened = os.open(path, flags, 0o640)
            self.close()
            self._file, self._day = opened, day
            self._prune(_name(now - KEPT_DAYS * DAY))
        return self._file

    def _append(self, file: int, data: bytes) -> None:
        # One write(2) with O_APPEND is not mixed with another process's.
        written = os.write(file, data)
        self._is_torn = written < len(data)
        if self._is_torn:
            raise OSError(None, "there is no room")

    def _prune(self, oldest: str) -> None:
        for path in self.directory.glob("combined-????-??-??.log"):
            if path.name < oldest:
                with suppress(OSError):  # another process was first
                    path.unlink()

    def _fail(self, error: OSError, now: float) -> None:
        self._rests_until = now + REST
        if self._is_failing:
            return
        self._is_failing = True
        why = error.strerror or error
        with suppress(OSError, ValueError):
            sys.stderr.write(f"jobserver: LOG_DIR={str(self.directory)!r} takes no lines: {why}\n")


def _name(moment: float) -> str:
    day = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=moment)
    return f"combined-{day:%Y-%m-%d}.log"
