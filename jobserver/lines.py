"""Log lines of one answer, written at once."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager


class Lines(logging.StreamHandler):  # type: ignore[type-arg]  # any stream
    """A stream handler that can hold back what one thread logs.

    Each write gives the interpreter away to a thread that runs a job: a line for each of fifty
    ended jobs would be fifty changes of threads.
    """

    _holder = 0
    _held: list[logging.LogRecord]

    def hold(self) -> None:
        """Write what this thread logs from here on when it lets go."""
        self._held = []
        self._holder = threading.get_ident()

    def let_go(self) -> None:
        """Write what was held back."""
        self._holder = 0
        if self._held:
            self._write(self._held)

    def emit(self, record: logging.LogRecord) -> None:
        """Write the line, or hold it."""
        if self._holder == threading.get_ident():
            self._held.append(record)
        else:
            self._write([record])

    def _write(self, records: list[logging.LogRecord]) -> None:
        self.acquire()
        try:
            self.stream.write("".join(self.format(one) + self.terminator for one in records))
            self.flush()
        except Exception:  # as StreamHandler does: a full disk or wrong format ends no worker
            self.handleError(records[-1])
        finally:
            self.release()


class FrequentLine:
    """An info line that one thread of a process logs thousands of times a second.

    A record is made once and copied: `Logger.info` would find out each time where it is called. An
    application's own record factory is asked each time.
    """

    def __init__(self, logger: logging.Logger, text: str) -> None:
        self._logger = logger
        self._text = text
        self._record: logging.LogRecord | None = None

    @property
    def is_wanted(self) -> bool:
        """Whether such a line goes anywhere."""
        return self._logger.isEnabledFor(logging.INFO)

    def log(self, *arguments: object, extra: Mapping[str, object]) -> None:
        """Log it, now; always from the same thread."""
        if logging.getLogRecordFactory() is not logging.LogRecord:
            self._logger.info(self._text, *arguments, extra=extra)
            return
        if self._record is None:
            place = (__file__, 0, self._text, (), None)
            self._record = self._logger.makeRecord(self._logger.name, logging.INFO, *place)
        record = logging.LogRecord.__new__(logging.LogRecord)
        now = time.time()
        record.__dict__ = {
            **self._record.__dict__,
            "args": arguments,
            "created": now,
            "msecs": int(now % 1 * 1000) + 0.0,
            "relativeCreated": self._record.relativeCreated + (now - self._record.created) * 1000,
            **extra,
        }
        self._logger.handle(record)


@contextmanager
def all_held(handlers: Sequence[Lines]) -> Iterator[None]:
    """Hold what this thread logs in here back in each of the handlers."""
    for handler in handlers:
        handler.hold()
    try:
        yield
    finally:
        for handler in handlers:
            handler.let_go()
