"""A watch: one waiter's place at the lookout, where the news of its job lies until it looks."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from jobserver.broker import Event, Job

MOST_EVENTS = 100  # kept for a waiter that does not look, a client that reads slowly


@dataclass(frozen=True, kw_only=True, slots=True)
class News:
    """How the job stands now (None: it is gone), and what happened to it since the last news."""

    job: Job | None
    events: tuple[Event, ...] = ()


class Watch:
    """News of one job, the newest state only; the first is how the job stood after it began."""

    def __init__(self, job_id: str) -> None:
        self.job_id = job_id
        self.is_over = False
        self._lock = threading.Lock()
        self._is_told = threading.Event()
        self._news: News | Exception | None = None

    def wait(self, timeout: float) -> News | None:
        """Return the next news, None when there is none within `timeout` seconds.

        None at once when the lookout closes (`is_over`). Raises RedisUnavailable when not even
        the first could be had.
        """
        self._is_told.wait(timeout)
        with self._lock:
            news, self._news = self._news, None
            if not self.is_over:
                self._is_told.clear()
        if isinstance(news, Exception):
            raise news
        return news

    def tell(self, job: Job | None, events: tuple[Event, ...]) -> None:
        """Leave news; the state replaces what was not looked at yet."""
        with self._lock:
            untold = self._news.events if isinstance(self._news, News) else ()
            self._news = News(job=job, events=(*untold, *events)[-MOST_EVENTS:])
            self._is_told.set()

    def fail(self, error: Exception) -> None:
        """Leave an error instead of the first news."""
        with self._lock:
            self._news = error
            self._is_told.set()

    def end(self) -> None:
        """Let the waiter go; there will be no more news."""
        with self._lock:
            self.is_over = True
            self._is_told.set()
