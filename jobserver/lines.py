"""Log lines of one answer, written at once."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager


class Lines(logging.StreamHandler):  # type: ignore[type-arg]  # any stream
    """A stream handler that can hold back what one thread logs.

    Each write gives the interpreter away to a thread that runs a job: a line for each of fifty
    ended jobs would be fifty changes of threads.
    """

    _holder = 0
    _held: list[logging.LogRecord]

    @contextmanager
    def held(self) -> Iterator[None]:
        """Write what this thread logs in here when it leaves."""
        self._held = []
        self._holder = threading.get_ident()
        try:
            yield
        finally:
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


@contextmanager
def all_held(handlers: Sequence[Lines]) -> Iterator[None]:
    """Hold what this thread logs in here back in each of the handlers."""
    with ExitStack() as stack:
        for handler in handlers:
            stack.enter_context(handler.held())
        yield
