"""What lies where in Redis for one queue or one job, for who would else look with redis-cli."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jobserver.broker import keys
from jobserver.broker.broker import Broker, available
from jobserver.broker.job import call_of, queue_of
from jobserver.errors import JobNotFound
from jobserver.policy import Queue

HEAD = 5  # entries of a list that are shown
LOOKED_AT = 10_000  # entries of a waiting list in which a job is looked for

_REGISTRIES = ("wip", "scheduled", "deferred", "finished", "failed", "canceled")


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """A list or registry: how many entries, and the first few as text, a registry's with scores."""

    key: str
    size: int
    head: Sequence[str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Inspected:
    """A job: its hash but for the data, where it lies, and who holds it.

    `places` maps keys to a position or a score. `lease` is the seconds until it runs out, negative
    when it has; None: there is none. `expires` is in seconds, None for never. `data` says why when
    it cannot be read.
    """

    id: str
    fields: Mapping[str, str]
    data: Any
    expires: int | None
    places: Mapping[str, float]
    lease: float | None
    held: str | None


def inspect_queue(broker: Broker, queue: Queue) -> list[Place]:
    """Return every list and registry of a queue that is not empty; one round trip."""
    lists = [keys.waiting(origin) for origin in queue.origins] + [keys.wake(queue.name)]
    zsets = [keys.registry(name, origin) for name in _REGISTRIES for origin in queue.origins]
    with available():
        pipe = broker.connection.pipeline(transaction=False)
        for key in lists:
            pipe.llen(key)
            pipe.lrange(key, 0, HEAD - 1)
        for key in zsets:
            pipe.zcard(key)
            pipe.zrange(key, 0, HEAD - 1, withscores=True)
        answers = pipe.execute()
    return [
        Place(key=key, size=size, head=[_shown(entry) for entry in head])
        for key, size, head in zip(lists + zsets, answers[::2], answers[1::2], strict=True)
        if size
    ]


def inspect_job(broker: Broker, job_id: str) -> Inspected:
    """Return what Redis holds of a job; two round trips. Raises JobNotFound."""
    with available():
        raw: Any = broker.connection.hgetall(keys.job(job_id))
    if not raw:
        raise JobNotFound(f"No job with id {job_id!r} is known")
    fields = {name.decode(): value for name, value in raw.items()}
    data = fields.pop("data", b"")
    text = {name: value.decode(errors="replace") for name, value in sorted(fields.items())}
    if "rerun" in text:
        text["rerun"] = "(a payload)"  # as it is data, which is shown by who knows its type
    queue, _ = queue_of(text.get("origin", ""))
    origins = (f"{queue}:high", queue, f"{queue}:low")  # stock RQ may have named it as we would not
    lists = [keys.waiting(origin) for origin in origins]
    entry = f"{job_id}:{text.get('exec', '')}"
    members = {
        keys.registry(name, origin): entry if name == "wip" else job_id
        for name in _REGISTRIES
        for origin in origins
    }
    with available():
        pipe = broker.connection.pipeline(transaction=False)
        pipe.time()
        pipe.ttl(keys.job(job_id))
        pipe.zscore(keys.LEASES, entry)
        pipe.hget(keys.HELD, entry)
        for key in lists:
            pipe.lpos(key, job_id, maxlen=LOOKED_AT)
        for key, member in members.items():
            pipe.zscore(key, member)
        (seconds, micros), ttl, lease, held, *found = pipe.execute()
    places = zip([*lists, *members], found, strict=True)
    return Inspected(
        id=job_id,
        fields=text,
        data=_data(data),
        expires=ttl if ttl >= 0 else None,
        places={key: place for key, place in places if place is not None},
        lease=None if lease is None else round(lease / 1000 - seconds - micros / 1e6, 1),
        held=held.decode() if held else None,
    )


def _data(raw: bytes) -> Any:
    try:
        return call_of(raw)
    except ValueError as error:
        return f"({error})"


def _shown(entry: bytes | tuple[bytes, float]) -> str:
    if isinstance(entry, bytes):
        return entry.decode(errors="replace")
    return f"{entry[0].decode(errors='replace')} ({entry[1]:.0f})"
