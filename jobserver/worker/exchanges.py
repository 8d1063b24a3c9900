"""Exchanges: what a worker says to the server, and has not been answered yet."""

from __future__ import annotations

import math
import socket
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from jobserver.broker import Broker, Ending, Share
from jobserver.broker.exchange import exchange_call, wanted
from jobserver.broker.line import Exchange, Line
from jobserver.broker.scripts import Argument
from jobserver.ids import new_id
from jobserver.policy import Retention

AHEAD = 2  # exchanges under way at once: while the server does one, this process does the other's


@dataclass(frozen=True, kw_only=True, slots=True)
class Sent:
    """An exchange under way: the ends handed in, and how many runs were asked for."""

    endings: Sequence[Ending]
    request: int | None  # None: nothing was asked for
    processes: int
    threads: int
    at: float  # monotonic
    shares: Sequence[Share]


class Exchanges:
    """Sends ends and claims ahead of their answers, which come in the same order.

    A claim has a number. When its answer is lost it is sent again under that number, and the server
    then hands out what this worker holds without knowing.
    """

    def __init__(self, broker: Broker, *, worker: str, lease: float) -> None:
        self._worker = worker
        self._lease = lease
        self._line = Line(broker.connection, broker.scripts)
        self._sent: deque[Sent] = deque()
        self._token = new_id()  # of this life of the worker
        self._request = 0
        self._repeat: int | None = None  # the first claim that was not answered
        self.threads = self.processes = 0  # runs that may be on their way to each executor

    def __len__(self) -> int:
        return len(self._sent)

    def __iter__(self) -> Iterator[Sent]:
        return iter(self._sent)

    @property
    def may_send(self) -> bool:
        """Whether there may be one more under way."""
        return len(self._sent) < AHEAD

    @property
    def must_repeat(self) -> bool:
        """Whether a claim was not answered, and has not been sent again."""
        return self._repeat is not None

    @property
    def source(self) -> socket.socket | None:
        """What becomes readable when an answer comes; None while none is expected."""
        return self._line.source

    @property
    def has_read(self) -> bool:
        """Whether an answer lies read already, which `source` won't show."""
        return self._line.has_more()

    @property
    def since(self) -> float:
        """The monotonic time when the oldest was sent; for ever from now when none is under way."""
        return self._sent[0].at if self._sent else math.inf

    @property
    def endings(self) -> Iterator[Ending]:
        """The ends that were handed in and not answered."""
        return (ending for sent in self._sent for ending in sent.endings)

    def send(
        self,
        endings: Sequence[tuple[Ending, Retention]],
        *,
        processes: int,
        threads: int,
        shares: Sequence[Share],
        known: Iterable[str],
        look: bool,
    ) -> None:
        """Hand ends in and ask for so many runs, `known` being the executions held.

        With `look` the server looks also into queues that none of ours has pushed to. Raises
        RedisUnavailable, after which all that was under way is to be taken back (`take_back`).
        """
        request: int | None = None
        claim: Sequence[Argument] = ()
        if processes + threads or self._repeat is not None:
            request = self._request if self._repeat is None else self._repeat
            claim = wanted(
                request=request,
                token=self._token,
                lease=self._lease,
                processes=processes,
                threads=threads,
                shares=shares,
                known=() if self._repeat is None else list(known),
                look=look,
            )
            self._request = max(self._request, request + 1)
        self._sent.append(
            Sent(
                endings=[ending for ending, _ in endings],
                request=request,
                processes=processes,
                threads=threads,
                at=time.monotonic(),
                shares=shares,
            )
        )
        self.threads += threads
        self.processes += processes
        self._line.send(exchange_call(self._worker, endings=endings, claim=claim))
        self._repeat = None  # asked again; when it fails, take_back notes it anew

    def receive(self) -> tuple[Sent, Exchange]:
        """Return the oldest exchange with its answer, waiting for it; raises RedisUnavailable.

        After an answer with an error, all that is under way is to be taken back.
        """
        answer = self._line.receive()
        sent = self._sent.popleft()
        self.threads -= sent.threads
        self.processes -= sent.processes
        if answer.error and sent.request is not None:
            self._repeat = sent.request
        return sent, answer

    def take_back(self) -> list[Ending]:
        """Return the ends that were not answered; claims that were not are to be repeated."""
        endings = list(self.endings)
        asked = [sent.request for sent in self._sent if sent.request is not None]
        if self._repeat is not None:
            asked.append(self._repeat)
        self._repeat = min(asked, default=None)
        self._sent.clear()
        self.threads = self.processes = 0
        self._line.close()
        return endings
