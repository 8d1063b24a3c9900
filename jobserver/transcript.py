"""The transcript of a run: the lines that its job logs, written each second and at the end.

A job that logs nothing has none. One that logs without end is written ever more rarely: what is
kept in the end are its last lines.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

import orjson

from jobserver.errors import RedisUnavailable
from jobserver.redaction import masked

MOST_LINES = 200  # of one run
MOST_BYTES = 64 * 1024  # of one run's lines
LINE_CHARS = 8000  # of one line's text
INTERVAL = 1.0  # seconds between two writes, and one more for each MOST_BYTES written

Write = Callable[[int, Sequence[bytes]], None]

_formatter = logging.Formatter()

logger = logging.getLogger("jobserver.transcript")


class Transcript:
    """Gathers lines; `write` takes how many were dropped, and the lines after those as JSON."""

    def __init__(self, write: Write, *, secrets: Sequence[str] = ()) -> None:
        self._write = write
        self._secrets = secrets
        self._lines: deque[bytes] = deque()
        self._size = 0
        self._dropped = 0
        self._sent = 0
        self._is_closed = False
        self._lock = threading.Lock()
        self._writing = threading.Lock()  # so that lines stay in order
        self.due = 0.0  # monotonic

    def add(self, record: logging.LogRecord, *, attempt: int) -> None:
        """Take a record down."""
        line = _line(record, attempt=attempt, secrets=self._secrets)
        with self._lock:
            is_first = not self._lines
            self._lines.append(line)
            self._size += len(line)
            self._drop()
        if is_first:
            self._come_again()

    def flush(self) -> None:
        """Write what there is; when Redis is away it waits for the next time."""
        with self._writing:
            with self._lock:
                lines, dropped, size = list(self._lines), self._dropped, self._size
                self._lines.clear()
                self._size = self._dropped = 0
            if not lines:
                return
            try:
                self._write(dropped, lines)
                self._sent += size
            except RedisUnavailable:
                with self._lock:
                    self._lines.extendleft(reversed(lines))
                    self._size += size
                    self._dropped += dropped
                    self._drop()
                self._come_again()

    def close(self) -> None:
        """Write the last lines."""
        self._is_closed = True
        _scribe.forget(self)
        self.flush()
        with self._lock:
            left = self._dropped + len(self._lines)
            self._lines.clear()
        if left:
            logger.warning("%d lines of a job are not kept: Redis is away", left)

    def _drop(self) -> None:
        while len(self._lines) > MOST_LINES or self._size > MOST_BYTES:
            self._size -= len(self._lines.popleft())
            self._dropped += 1

    def _come_again(self) -> None:
        if self._is_closed:
            return
        self.due = time.monotonic() + INTERVAL * (1 + self._sent / MOST_BYTES)
        _scribe.remember(self)


class Scribe:
    """The one thread of a process that writes the transcripts of runs that go on."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: set[Transcript] = set()
        self._thread: threading.Thread | None = None

    def remember(self, transcript: Transcript) -> None:
        """Write a transcript when it is due."""
        with self._lock:
            self._open.add(transcript)
            if self._thread is None or not self._thread.is_alive():  # as in a forked process
                self._thread = threading.Thread(target=self._work, name="scribe", daemon=True)
                self._thread.start()

    def forget(self, transcript: Transcript) -> None:
        """Leave the rest of a transcript to its run."""
        with self._lock:
            self._open.discard(transcript)

    def _work(self) -> None:
        while True:
            time.sleep(INTERVAL / 4)
            now = time.monotonic()
            with self._lock:
                if not self._open:
                    self._thread = None
                    return
                due = [one for one in self._open if one.due <= now]
                self._open.difference_update(due)
            for transcript in due:
                transcript.flush()


_scribe = Scribe()


def _line(record: logging.LogRecord, *, attempt: int, secrets: Sequence[str]) -> bytes:
    said = record.msg
    if type(said) is dict:  # structlog's
        rest = {name: value for name, value in said.items() if name not in ("event", "exception")}
        text = " ".join([str(said.get("event")), *(f"{k}={v}" for k, v in rest.items())])
        text = "\n".join([text, *([said["exception"]] if "exception" in said else [])])
    else:
        text = record.getMessage()
    if record.exc_info and record.exc_info[0]:
        text = f"{text}\n{_formatter.formatException(record.exc_info)}"
    text = masked(text, secrets).encode(errors="backslashreplace").decode()
    return orjson.dumps(
        {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "attempt": attempt,
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": text if len(text) <= LINE_CHARS else f"{text[:LINE_CHARS]}…",
        }
    )
