"""The tail of the event stream: what happens from now on, read on a connection of its own."""

from __future__ import annotations

import socket
from collections.abc import Container, Iterator
from dataclasses import dataclass
from typing import Any, cast

from redis import Redis
from redis.exceptions import RedisError

from jobserver.broker import keys
from jobserver.errors import RedisUnavailable

WAIT = 2.0  # seconds that the server holds one XREAD; without an answer long after, it is dead
BATCH = 1000  # events of one answer


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """One change of a job: its `name` (_state.lua), when (Unix s), and the event's own fields."""

    name: str
    job: str
    at: float
    fields: dict[str, str]


class Tail:
    """A position in the event stream, with an XREAD under way on a socket that can be selected."""

    def __init__(self, connection: Redis) -> None:
        self._redis = connection
        self._connection: Any = None  # redis-py has no public type for a single connection
        self._position = b"0-0"

    def listen(self) -> bool:
        """Be at the end of the stream; returns whether it is new there, and knows nothing before.

        Raises RedisUnavailable.
        """
        if self._connection is not None:
            return False
        try:
            self._connection = self._redis.connection_pool.make_connection()
            self._connection.connect()
            last = self._ask("XREVRANGE", keys.EVENTS, "+", "-", "COUNT", 1)
            self._position = last[0][0] if last else b"0-0"
            self._listen_on()
        except (RedisError, OSError) as error:
            self.close()
            raise RedisUnavailable(f"Redis cannot be reached: {error}") from error
        return True

    @property
    def source(self) -> socket.socket:
        """What becomes readable when there is an answer, at the latest after WAIT."""
        return cast(socket.socket, self._connection._sock)

    def read(self, wanted: Container[bytes]) -> tuple[list[Event], bool]:
        """Read the answer that is there; return the events of wanted jobs, and whether more wait.

        Raises RedisUnavailable; `listen` then starts anew.
        """
        try:
            answer = self._connection.read_response()
            entries = answer[0][1] if answer else []
            if entries:
                self._position = entries[-1][0]
            self._listen_on()
        except (RedisError, OSError) as error:
            self.close()
            raise RedisUnavailable(f"Redis cannot be reached: {error}") from error
        return list(_events(entries, wanted)), len(entries) == BATCH

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.disconnect()
            self._connection = None

    def _ask(self, *command: str | int) -> Any:
        self._connection.send_command(*command)
        return self._connection.read_response()

    def _listen_on(self) -> None:
        self._connection.send_command(
            "XREAD",
            "COUNT",
            BATCH,
            "BLOCK",
            int(WAIT * 1000),
            "STREAMS",
            keys.EVENTS,
            self._position,
        )


def _events(entries: list[Any], wanted: Container[bytes]) -> Iterator[Event]:
    for entry_id, flat in entries:
        # event, its name, job, its id, …: as _state.lua writes them, thousands of times a second.
        if flat[3] not in wanted:
            continue
        values = [value.decode(errors="replace") for value in flat]
        yield Event(
            name=values[1],
            job=values[3],
            at=int(entry_id.partition(b"-")[0]) / 1000,
            fields=dict(zip(values[4::2], values[5::2], strict=True)),
        )
