"""The event stream as its recorder reads it: from a position on, which is known in Redis too."""

from __future__ import annotations

from typing import Any, NamedTuple

from redis import Redis
from redis.exceptions import RedisError

from jobserver.broker import keys
from jobserver.broker.broker import Broker, available
from jobserver.broker.connection import sibling

START = "0-0"  # before all events
PATIENCE = 2.0  # seconds beyond its `wait` that an answer may take


def is_before(one: str, other: str) -> bool:
    """Compare ids of events; a part that is missing is 0, as for Redis."""
    one_ms, _, one_number = one.partition("-")
    other_ms, _, other_number = other.partition("-")
    return (int(one_ms), int(one_number or 0)) < (int(other_ms), int(other_number or 0))


class Entry(NamedTuple):
    """One event: its id in the stream, and its fields, `event`, `job` and `run` among them."""

    id: str
    fields: dict[str, str]

    @property
    def at(self) -> int:
        """When it happened, Unix ms."""
        return int(self.id.partition("-")[0])

    @property
    def name(self) -> str:
        """What happened (_state.lua)."""
        return self.fields["event"]

    @property
    def run(self) -> str:
        """Whose run it was; '' of no run, and of jobs that stock RQ made."""
        return self.fields["run"]

    @property
    def makes_run(self) -> bool:
        """Whether the run begins with it."""
        return "type" in self.fields


class Stream:
    """Reads events on a connection of its own. Raises RedisUnavailable."""

    def __init__(self, broker: Broker, *, wait: float) -> None:
        """Make a reader that waits at most `wait` seconds for an event."""
        self._broker = broker
        self._wait = wait
        self._redis: Redis = sibling(broker.connection, timeout=wait + PATIENCE, decoded=True)

    def read(self, after: str, *, most: int, patient: bool) -> list[Entry]:
        """Return the events behind a position; `patient`: wait for one when there is none."""
        block: list[str | int] = ["BLOCK", int(self._wait * 1000)] if patient else []
        with available():
            connection: Any = self._redis.connection_pool.get_connection()
            try:
                connection.send_command(
                    "XREAD", "COUNT", most, *block, "STREAMS", keys.EVENTS, after
                )
                answer = connection.read_response()
            except (RedisError, OSError):
                connection.disconnect()
                raise
            finally:
                self._redis.connection_pool.release(connection)
        found = answer[0][1] if answer else []
        return [Entry(id, dict(zip(flat[::2], flat[1::2], strict=True))) for id, flat in found]

    def close(self) -> None:
        """Close the connection."""
        self._redis.close()
