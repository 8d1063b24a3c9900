"""A worker whose every step the test takes itself, and what it sees of Redis meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from redis import Redis

from jobserver import Queue, Retention
from jobserver.broker import Broker, Claim, Ending, EnqueueRequest, Share, keys
from jobserver.broker.exchange import OutcomeWord, wanted
from jobserver.broker.job import envelope, packed_traceback, packed_value
from jobserver.ids import new_id

LISTS = ("queue",)
ZSETS = ("wip", "scheduled", "finished", "failed", "canceled", "deferred")


@dataclass
class Hand:
    """A worker's dispatcher, one call at a time; `repeat` sends the last claim once more."""

    broker: Broker
    queues: Sequence[Queue]
    name: str = field(default_factory=lambda: f"hand-{new_id()}")
    lease: float = 15
    held: dict[str, Claim] = field(default_factory=dict)
    request: int = 0

    def claim(
        self,
        *,
        processes: int = 1,
        threads: int = 1,
        room: int = 1000,
        quota: int = 1000,
        repeat: bool = False,
        look: bool = True,
        knows: Iterable[Claim] = (),
    ) -> list[Claim]:
        """Take what waits, at most `processes` and `threads` jobs of the queues of either kind."""
        self.request += not repeat
        claim = wanted(
            request=self.request,
            token=f"{self.name}-",
            lease=self.lease,
            processes=processes,
            threads=threads,
            shares=[Share(queue=queue, quota=quota, room=room) for queue in self.queues],
            known=[claim.exec for claim in knows],
            look=look,
        )
        _, claims = self.broker.exchange(self.name, claim=claim)
        self.held.update((claim.exec, claim) for claim in claims)
        return claims

    def take(self) -> Claim:
        """Take the one job that is next."""
        (claim,) = self.claim(processes=1, threads=1)
        return claim

    def end(
        self, claim: Claim, word: OutcomeWord = "completed", *, value: object = None, **more: Any
    ) -> str:
        """Hand in how a run ended; return what became of that."""
        (answer,) = self.end_many([(claim, word)], value=value, **more)
        return answer

    def end_many(
        self,
        ends: Sequence[tuple[Claim, OutcomeWord]],
        *,
        value: object = None,
        retention: Retention | None = None,
        **more: Any,
    ) -> list[str]:
        """Hand in how runs ended, in one call; return what became of each."""
        endings = []
        for claim, word in ends:
            packed = packed_value(b"null" if value is None else str(value).encode())
            fields = dict(more)
            if word == "limited":
                packed = "" if value is None else str(value)
            if word in ("failed", "retry"):
                packed = packed_traceback("Traceback: it failed")
                failure = {"error_type": "ValueError", "error_message": "no", "reason": "error"}
                fields = failure | fields
            ending = Ending(claim=claim, word=word, value=packed, **fields)
            endings.append((ending, retention or self.retention(claim)))
        words, _ = self.broker.exchange(self.name, endings=endings)
        for claim, _ in ends:
            self.held.pop(claim.exec, None)
        return words

    def retention(self, claim: Claim) -> Retention:
        """Return what the claim's queue declares."""
        name = claim.origin.partition(":")[0]
        return next(queue.retention for queue in self.queues if queue.name == name)


def request_of(
    job_id: str,
    *,
    queue: str = "q",
    call: str | None = None,
    run: str | None = None,
    type_name: str = "test.it",
    payload: str = "{}",
    **more: Any,
) -> EnqueueRequest:
    """Return an enqueue as the script gets it."""
    return EnqueueRequest(
        **{
            "id": job_id,
            "call": call or new_id(),
            "run": run or new_id(),
            "type": type_name,
            "origin": queue,
            "data": envelope("jobserver.runner.run", type_name, payload.encode()),
            "timeout": 180,
            "attempts": 3,
            **more,
        }
    )


def places(redis: Redis, job_id: str) -> list[str]:
    """Return the lists and registries that hold a job, once per entry."""
    found = []
    for kind in LISTS:
        for key in redis.scan_iter(f"{keys.RQ}{kind}:*", _type="list"):
            entries = [entry.decode() for entry in redis.lrange(key, 0, -1)]
            found += [key.decode().removeprefix(keys.RQ)] * entries.count(job_id)
    for kind in ZSETS:
        for key in redis.scan_iter(f"{keys.RQ}{kind}:*", _type="zset"):
            entries = [entry.decode().partition(":")[0] for entry in redis.zrange(key, 0, -1)]
            found += [key.decode().removeprefix(keys.RQ)] * entries.count(job_id)
    return found


def traces(redis: Redis, job_id: str) -> list[str]:
    """Return all keys that name a job, but its hash and the memory of its calls."""
    return sorted(
        key.decode() for key in redis.scan_iter(f"*{job_id}*") if key != keys.job(job_id).encode()
    )


def round_trips(redis: Redis, call: Callable[[], object]) -> int:
    """Return how often the server reads from a connection while `call` is made.

    The least of three: a connection that has to be made anew reads more.
    """
    counts = []
    for _ in range(3):
        before = redis.info("stats")["total_reads_processed"]
        call()
        after = redis.info("stats")["total_reads_processed"]  # which is one read itself
        counts.append(after - before - 1)
    return min(counts)


def events(redis: Redis, job_id: str | None = None) -> list[dict[str, str]]:
    """Return the events so far, of one job or of all, oldest first."""
    read = [
        {name.decode(): value.decode() for name, value in fields.items()}
        for _, fields in redis.xrange(keys.EVENTS)
    ]
    return [event for event in read if job_id in (None, event["job"])]


def story(redis: Redis, job_id: str | None = None) -> list[str]:
    """Return the names of the events so far."""
    return [event["event"] for event in events(redis, job_id)]


def hash_of(redis: Redis, job_id: str) -> dict[str, str]:
    """Return a job's hash."""
    fields = redis.hgetall(keys.job(job_id))
    return {name.decode(): value.decode(errors="replace") for name, value in fields.items()}
