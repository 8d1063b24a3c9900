"""What the Redis server says of itself: version, clock, memory, how it keeps what it is given."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from redis import Redis

from jobserver.broker.broker import available

OLDEST = (6, 2)  # the first version whose commands are enough


@dataclass(frozen=True, kw_only=True, slots=True)
class Vitals:
    """A server at one moment; `clock` is its Unix time, memory is in bytes (0: no bound).

    `snapshots` says whether it saves by itself, None where it does not tell (CONFIG is refused by
    many hosted ones). `failing` names what it could not write of late.
    """

    version: tuple[int, ...]
    clock: float
    used_memory: int
    max_memory: int
    policy: str
    appends: bool
    snapshots: bool | None
    failing: tuple[str, ...]
    is_replica: bool


def vitals(connection: Redis) -> Vitals:
    """Return them; one round trip. Raises RedisUnavailable."""
    with available():
        pipe = connection.pipeline(transaction=False)
        pipe.info()
        pipe.time()
        pipe.config_get("save")
        facts, (seconds, micros), saves = pipe.execute(raise_on_error=False)
        if isinstance(facts, Exception):
            raise facts
    return Vitals(
        version=tuple(int(part) for part in re.findall(r"\d+", str(facts["redis_version"]))[:2]),
        clock=seconds + micros / 1_000_000,
        used_memory=int(facts.get("used_memory", 0)),
        max_memory=int(facts.get("maxmemory", 0)),
        policy=str(facts.get("maxmemory_policy", "noeviction")),
        appends=bool(facts.get("aof_enabled")),
        snapshots=None if isinstance(saves, Exception) else bool(_setting(saves, "save")),
        failing=tuple(name for name, what in _WRITES.items() if facts.get(what, "ok") != "ok"),
        is_replica=facts.get("role") == "slave",
    )


_WRITES = {
    "append-only file": "aof_last_write_status",
    "rewrite of the append-only file": "aof_last_bgrewrite_status",
    "snapshot": "rdb_last_bgsave_status",
}


def _setting(found: Mapping[Any, Any], name: str) -> str:
    value = found.get(name, found.get(name.encode(), ""))
    return value.decode() if isinstance(value, bytes) else str(value)
