"""A load of jobs on three queues, and the account of what became of them."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from redis import Redis

from jobserver.broker import Broker, EnqueueRequest, keys
from jobserver.broker.broker import available
from jobserver.errors import RedisUnavailable
from tests.engine_jobs import journal
from tests.hands import LISTS, ZSETS, request_of

QUEUES = ("mail", "sync", "report")


@dataclass
class Load:
    """Jobs that keep coming, `depth` of them waiting per queue; a context manager.

    Each comes into being once, however often Redis goes away meanwhile. Most take some hundredths
    of a second, one in `rare` takes `long` seconds, one in ten is delayed.
    """

    broker: Broker
    depth: int = 20
    rare: int = 40
    long: float = 1.5
    seed: int = 1
    ids: list[str] = field(default_factory=list, repr=False)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)  # noqa: S311
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="load")
        self._error: BaseException | None = None

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()
        if self._error:
            raise self._error

    def is_done(self) -> bool:
        """Return whether all its jobs have completed."""
        done = sum(self.broker.connection.zcard(keys.registry("finished", q)) for q in QUEUES)
        return done == len(self.ids)

    def add(self, count: int) -> None:
        """Enqueue `count` jobs per queue."""
        requests = [self._request(queue) for _ in range(count) for queue in QUEUES]
        until = time.monotonic() + 60
        while True:
            try:
                self.broker.enqueue(requests)
            except RedisUnavailable:
                if time.monotonic() > until:
                    raise
                time.sleep(0.05)
                continue
            self.ids.extend(request.id for request in requests)
            return

    def _request(self, queue: str) -> EnqueueRequest:
        number = self._random.randrange(10**12)
        seconds = self._random.uniform(0, 0.1)
        if self._random.randrange(self.rare) == 0:
            seconds = self.long
        return request_of(
            f"{queue}-{number}",
            queue=queue,
            type_name=f"safety_jobs.{queue}",
            payload=f'{{"seconds": {seconds:.3f}}}',
            attempts=20,
            due="+200" if self._random.randrange(10) == 0 else "",
        )

    def _wants_more(self) -> bool:
        try:
            with available():
                waiting = sum(self.broker.connection.llen(keys.waiting(queue)) for queue in QUEUES)
        except RedisUnavailable:
            return False
        return waiting < self.depth * len(QUEUES)

    def _run(self) -> None:
        try:
            while not self._is_over.wait(0.05):
                if self._wants_more():
                    self.add(self.depth)
        except BaseException as error:
            self._error = error


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run by the journal, in Unix seconds; `ended` is None when it did not come to its end."""

    job: str
    attempt: int
    pid: int
    begun: float
    ended: float | None


def runs() -> dict[str, list[Run]]:
    """Return the journal's runs by job, in the order they began."""
    found: defaultdict[str, list[Run]] = defaultdict(list)
    begun: dict[tuple[str, str, str], float] = {}
    ended: dict[tuple[str, str, str], float] = {}
    for job, attempt, pid, text in journal():
        word, at = text.split()
        times = begun if word == "begin" else ended
        assert (job, attempt, pid) not in times or word == "begin", "an end is noted once"
        times.setdefault((job, attempt, pid), float(at))
    for run, at in begun.items():
        job, attempt, pid = run
        found[job].append(
            Run(job=job, attempt=int(attempt), pid=int(pid), begun=at, ended=ended.get(run))
        )
    return found


def unsettled(redis: Redis, ids: Iterable[str]) -> list[str]:
    """Say what is not as it must be when all has ended: each job completed, in one place, alone."""
    places: defaultdict[str, list[str]] = defaultdict(list)
    for kinds, kind_of_key in ((LISTS, "list"), (ZSETS, "zset")):
        for kind in kinds:
            for key in redis.scan_iter(f"{keys.RQ}{kind}:*", _type=kind_of_key, count=1000):
                read = redis.lrange if kind_of_key == "list" else redis.zrange
                for entry in read(key, 0, -1):
                    places[entry.decode().partition(":")[0]].append(f"{kind}")
    wanted = list(ids)
    pipe = redis.pipeline(transaction=False)
    for job_id in wanted:
        pipe.hget(keys.job(job_id), "status")
    statuses = [status.decode() if status else "no status" for status in pipe.execute()]
    wrong = [
        f"{job_id}: {status}, in {places[job_id]}"
        for job_id, status in zip(wanted, statuses, strict=True)
        if (status, places[job_id]) != ("finished", ["finished"])
    ]
    patterns = ("rq:execution:*", "rq:executions:*", "rq:worker:*:executions", "rq:wip:*")
    wrong += [key.decode() for pattern in patterns for key in redis.scan_iter(pattern, count=1000)]
    entries = [*redis.zrange(keys.LEASES, 0, -1), *redis.hkeys(keys.HELD)]
    return wrong + [entry.decode() for entry in entries]


def put_back(redis: Redis) -> Counter[str]:
    """Return how often each job was put back by a worker that shut down."""
    events = (fields for _, fields in redis.xrange(keys.EVENTS))
    return Counter(
        event[b"job"].decode()
        for event in events
        if event.get(b"reason") == b"worker shut down" and event[b"event"] == b"queued"
    )
