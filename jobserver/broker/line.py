"""The line: a worker's own connection, on which it sends exchanges ahead of their answers."""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from redis import Redis
from redis.exceptions import NoScriptError, ResponseError

from jobserver.broker.broker import Claim, available, claims_of
from jobserver.broker.scripts import Call, Scripts
from jobserver.errors import RedisUnavailable


@dataclass(frozen=True, kw_only=True, slots=True)
class Exchange:
    """What came of the ends handed in (None: not known), and the runs taken.

    With an `error` the call may be sent again.
    """

    words: list[str] | None
    claims: list[Claim]
    error: RedisUnavailable | None = None


class Line:
    """One connection; answers come in the order of the calls. Every error closes it."""

    def __init__(self, connection: Redis, scripts: Scripts) -> None:
        self._redis = connection
        self._scripts = scripts
        self._connection: Any = None  # redis-py has no public type for a single connection
        self._sent: deque[Sequence[Call]] = deque()

    @property
    def source(self) -> socket.socket | None:
        """What becomes readable when an answer comes; None while none is expected."""
        return cast(socket.socket, self._connection._sock) if self._sent else None

    def send(self, calls: Sequence[Call]) -> None:
        """Send the calls of an exchange (`exchange_calls`); raises RedisUnavailable."""
        try:
            with available():
                if self._connection is None:
                    self._scripts.load()  # it may be another server by now
                    self._connection = self._redis.connection_pool.make_connection()
                    self._connection.connect()
                packed = self._connection.pack_commands(self._scripts.commands(calls))
                self._connection.send_packed_command(packed)
        except RedisUnavailable:
            self.close()
            raise
        self._sent.append(calls)

    def has_more(self) -> bool:
        """Return whether another answer was read from the socket already, which it won't show."""
        # can_read() says so too, but reads from the socket each time; this only looks (hiredis).
        return bool(self._sent) and bool(self._connection._parser._reader.has_data())

    def receive(self) -> Exchange:
        """Read the answer of the oldest exchange; raises RedisUnavailable."""
        calls = self._sent[0]
        try:
            with available():
                answers = [self._answer() for _ in calls]
        except RedisUnavailable:
            self.close()
            raise
        self._sent.popleft()
        words: list[str] | None = None
        claims: list[Claim] = []
        error: RedisUnavailable | None = None
        for (name, _), answer in zip(calls, answers, strict=True):
            if isinstance(answer, NoScriptError):
                error = RedisUnavailable("Redis has forgotten the scripts")
            elif isinstance(answer, Exception):
                try:
                    with available():
                        raise answer
                except RedisUnavailable as unavailable:
                    error = unavailable
            elif name == "finish":
                words = [word.decode() for word in answer]
            else:
                claims = claims_of(answer)
        if error:
            self.close()
        return Exchange(words=words, claims=claims, error=error)

    def close(self) -> None:
        """Close the connection; what is outstanding will not be answered."""
        self._sent.clear()
        if self._connection is not None:
            self._connection.disconnect()
            self._connection = None

    def _answer(self) -> Any:
        try:
            return self._connection.read_response()
        except ResponseError as error:
            return error
