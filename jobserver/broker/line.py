"""The line: a worker's own connection, on which it sends exchanges ahead of their answers."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

from redis import Redis
from redis.exceptions import NoScriptError, ResponseError

from jobserver.broker.broker import available
from jobserver.broker.exchange import Claim, read_exchange
from jobserver.broker.scripts import Call, Scripts
from jobserver.errors import RedisUnavailable


class Exchange(NamedTuple):
    """What came of the ends handed in (None: not known), and the runs taken.

    With an `error` the call may be sent again.
    """

    words: list[str] | None
    claims: Sequence[Claim]
    error: RedisUnavailable | None = None


class Line:
    """One connection; answers come in the order of the calls. Every error closes it."""

    def __init__(self, connection: Redis, scripts: Scripts) -> None:
        self._redis = connection
        self._scripts = scripts
        self._connection: Any = None  # redis-py has no public type for a single connection
        self._sent = 0  # exchanges that are not answered

    @property
    def source(self) -> socket.socket | None:
        """What becomes readable when an answer comes; None while none is expected."""
        return cast(socket.socket, self._connection._sock) if self._sent else None

    def send(self, call: Call) -> None:
        """Send an exchange (`exchange_call`); raises RedisUnavailable."""
        try:
            with available():
                if self._connection is None:
                    self._scripts.load()  # it may be another server by now
                    self._connection = self._redis.connection_pool.make_connection()
                    self._connection.connect()
                self._connection.send_packed_command(self._scripts.packed([call]))
        except RedisUnavailable:
            self.close()
            raise
        self._sent += 1

    def has_more(self) -> bool:
        """Return whether another answer was read from the socket already, which it won't show."""
        # can_read() says so too, but reads from the socket each time; this only looks (hiredis).
        return bool(self._sent) and bool(self._connection._parser._reader.has_data())

    def receive(self) -> Exchange:
        """Read the answer of the oldest exchange; raises RedisUnavailable."""
        try:
            with available():
                answer = self._connection.read_response()
        except RedisUnavailable as error:
            self.close()
            if isinstance(error.__cause__, ResponseError):
                return Exchange(None, (), error)
            raise
        except NoScriptError:
            self.close()
            return Exchange(None, (), RedisUnavailable("Redis has forgotten the scripts"))
        self._sent -= 1
        words, claims, refused = read_exchange(answer)
        if refused is None:
            return Exchange(words, claims)
        try:
            with available():
                raise refused
        except RedisUnavailable as error:
            self.close()
            return Exchange(words, claims, error)

    def close(self) -> None:
        """Close the connection; what is outstanding will not be answered."""
        self._sent = 0
        if self._connection is not None:
            self._connection.disconnect()
            self._connection = None
