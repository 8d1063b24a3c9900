"""The lookout: the one subscriber of a process, which tells all its waiters of their jobs.

One thread does all: it follows the event stream, and reads the jobs that are watched, those of one
moment in one round trip. So a process waits with two connections, however many wait in it. No
change is missed: the thread is at the end of the stream before it reads a job for the first time,
and reads it again after each of its events.
"""

from __future__ import annotations

import logging
import os
import select
import socket
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

from jobserver.broker import Broker, Event
from jobserver.broker.tail import WAIT, Tail
from jobserver.errors import RedisUnavailable
from jobserver.live.watch import Watch

GATHER = 0.02  # seconds in which the events of a busy stream come together
PATIENCE = WAIT + 2.0  # seconds of silence after which a connection is taken for dead
LINGER = 10.0  # seconds without a waiter until the thread ends
PAUSE = 0.2  # seconds between attempts to reach Redis
CLOSING = 2.0  # seconds that closing waits for the thread, which may be reading
REREAD = 10.0  # seconds after which all watched jobs are read: stock tools tell no events

logger = logging.getLogger(__name__)


class Lookout:
    """Tells of changes of jobs; its thread starts with the first watch in a process."""

    def __init__(self, broker: Broker, *, most: int) -> None:
        self._broker = broker
        self._most = most
        self._reset()

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._watches: defaultdict[str, set[Watch]] = defaultdict(set)
        self._count = 0
        self._new: set[Watch] = set()  # those without news yet
        self._bell: socket.socket | None = None  # there while the thread runs
        self._thread: threading.Thread | None = None
        self._is_closed = False

    def watch(self, job_id: str) -> Watch | None:
        """Return a watch to be left in the end; None when there are as many as there may be."""
        if self._pid != os.getpid():  # the thread stayed behind in the parent
            self._reset()
        watch = Watch(job_id)
        with self._lock:
            if self._is_closed or self._count >= self._most:
                return None
            self._count += 1
            self._watches[job_id].add(watch)
            self._new.add(watch)
            self._ring()
        return watch

    def leave(self, watch: Watch) -> None:
        """Give a watch up; doing it again changes nothing."""
        with self._lock:
            watches = self._watches.get(watch.job_id, set())
            if watch not in watches:
                return
            watches.remove(watch)
            if not watches:
                del self._watches[watch.job_id]
            self._new.discard(watch)
            self._count -= 1

    @contextmanager
    def watching(self, job_id: str) -> Iterator[Watch | None]:
        """Watch a job for the length of the block; None as in `watch`."""
        watch = self.watch(job_id)
        try:
            yield watch
        finally:
            if watch is not None:
                self.leave(watch)

    def close(self) -> None:
        """Let all waiters go, and admit no more: this process ends."""
        with self._lock:
            self._is_closed = True
            self._end_all()
            if self._bell is not None:
                self._ring()
        if self._thread is not None:
            self._thread.join(CLOSING)

    def _ring(self) -> None:
        """Have the thread look up, or start it."""
        if self._bell is None:
            self._bell, ears = socket.socketpair()
            self._bell.setblocking(False)
            self._thread = threading.Thread(
                target=self._follow, args=(self._bell, ears), name="jobserver-lookout", daemon=True
            )
            self._thread.start()
        with suppress(BlockingIOError):  # it has been rung often enough
            self._bell.send(b".")

    def _follow(self, bell: socket.socket, ears: socket.socket) -> None:
        tail = self._broker.tail()
        awaited = reread = time.monotonic()
        is_cut_off = False
        try:
            while True:
                with self._lock:
                    if self._count:
                        awaited = time.monotonic()
                    elif self._is_closed or time.monotonic() > awaited + LINGER:
                        bell.close()
                        self._bell = None
                        return
                is_time = time.monotonic() > reread + REREAD
                reread = time.monotonic() if is_time else reread
                try:
                    self._look(tail, ears, reread=is_time)
                    if is_cut_off:
                        logger.warning("events are heard again")
                    is_cut_off = False
                except RedisUnavailable as error:
                    if not is_cut_off:
                        logger.warning("events are not heard, will be tried again: %s", error)
                    is_cut_off = True
                    tail.close()
                    self._fail_new(error)
                    time.sleep(PAUSE)
                except Exception:  # whatever it is, nobody may wait for ever
                    logger.exception("the lookout lets its waiters go")
                    tail.close()
                    with self._lock:
                        self._end_all()
        finally:
            tail.close()
            ears.close()

    def _look(self, tail: Tail, ears: socket.socket, *, reread: bool) -> None:
        """Wait for something to happen, and tell of it; `reread`: tell all, and do not wait."""
        reread = tail.listen() or reread
        poll = select.poll()  # select() refuses the sockets of a process that has a thousand
        poll.register(tail.source, select.POLLIN)
        poll.register(ears, select.POLLIN)
        ready = {number for number, _ in poll.poll(0 if reread else PATIENCE * 1000)}
        if not ready and not reread:
            raise RedisUnavailable("Redis has fallen silent")
        if ears.fileno() in ready:
            ears.recv(4096)
        events: dict[str, list[Event]] = defaultdict(list)
        is_read, is_more = tail.source.fileno() in ready, False
        if is_read:
            with self._lock:
                wanted = {job_id.encode() for job_id in self._watches}
            found, is_more = tail.read(wanted)
            for event in found:
                events[event.job].append(event)
        with self._lock:
            new = set(self._new)
            changed = set(self._watches) if reread else set(events)
        self._tell(changed=changed, new=new, events=events)
        if is_read and not is_more:
            time.sleep(GATHER)

    def _tell(
        self, *, changed: set[str], new: set[Watch], events: Mapping[str, Sequence[Event]]
    ) -> None:
        ids = list(changed | {watch.job_id for watch in new})
        if not ids:
            return
        jobs = dict(zip(ids, self._broker.fetch_many(ids), strict=True))
        with self._lock:
            self._new -= new
            told = {watch for job_id in changed for watch in self._watches.get(job_id, ())} - new
        for watch in new:
            watch.tell(jobs[watch.job_id], ())
        for watch in told:
            watch.tell(jobs[watch.job_id], tuple(events.get(watch.job_id, ())))

    def _fail_new(self, error: Exception) -> None:
        with self._lock:
            new, self._new = self._new, set()
        for watch in new:
            watch.fail(error)

    def _end_all(self) -> None:
        for watches in self._watches.values():
            for watch in watches:
                watch.end()
        self._watches.clear()
        self._new.clear()
        self._count = 0
