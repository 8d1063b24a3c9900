"""The doorbell: waits for a wake-up token without a thread, on a socket that can be selected."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Any, cast

from redis import Redis
from redis.exceptions import RedisError

from jobserver.broker import keys

WAIT = 2  # seconds that the server holds one BLPOP; then a dead connection would show


class Doorbell:
    """One connection, with a BLPOP under way while somebody listens."""

    def __init__(self, connection: Redis, queues: Sequence[str]) -> None:
        self._redis = connection
        self._keys = [keys.wake(name) for name in queues]
        self._connection: Any = None  # redis-py has no public type for a single connection
        self._is_armed = False

    def listen(self) -> None:
        """Ask for the next token, unless that is under way; nothing without Redis."""
        if self._is_armed:
            return
        try:
            if self._connection is None:
                self._connection = self._redis.connection_pool.make_connection()
                self._connection.connect()
            self._connection.send_command("BLPOP", *self._keys, WAIT)
        except (RedisError, OSError):
            self.close()
            return
        self._is_armed = True

    @property
    def source(self) -> socket.socket | None:
        """What becomes readable when there is an answer; None while nobody listens."""
        return cast(socket.socket, self._connection._sock) if self._is_armed else None

    def rang(self) -> bytes | None:
        """Read the answer that is there: the token's list, or None."""
        self._is_armed = False
        try:
            answer = self._connection.read_response()
        except (RedisError, OSError):
            self.close()
            return None
        return cast(bytes, answer[0]) if answer else None

    def pass_on(self, token: bytes) -> None:
        """Give a token back that this worker has no slot for: another one may."""
        self._redis.rpush(token.decode(), 1)

    def close(self) -> None:
        """Close the connection; `listen` opens a new one."""
        self._is_armed = False
        if self._connection is not None:
            self._connection.disconnect()
            self._connection = None
