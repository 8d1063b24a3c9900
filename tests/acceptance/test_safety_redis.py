"""Redis restarted, frozen, paused and cut off under load: living workers run each job once."""

from __future__ import annotations

import random
import resource
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from jobserver.broker import Broker, EnqueueRequest, keys
from jobserver.embedded import LOOPBACK, PORTS, find_server, is_free
from jobserver.errors import RedisUnavailable
from tests.acceptance.conftest import wait_until
from tests.fleet import Fleet
from tests.hands import request_of
from tests.load import Load, runs, unsettled


@dataclass
class Valkey:
    """A server with an append-only file, whose port outlives it."""

    directory: Path
    port: int

    def start(self) -> None:
        """Start it with what it had."""
        options = {"port": self.port, "dir": self.directory, "appendonly": "yes", "save": ""}
        command = [str(find_server())]
        for name, value in options.items():
            command += [f"--{name}", str(value)]
        # Of these signals one would end it when its file may not grow, see `on_full_disk`.
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, restore_signals=False)
        wait_until(self.answers, what="it is up")

    def answers(self) -> bool:
        """Return whether it has loaded what it had."""
        with Redis(port=self.port) as client:
            try:
                return client.ping()
            except RedisConnectionError:
                return False

    def stop(self, how: signal.Signals) -> None:
        """End it with a signal."""
        self.process.send_signal(how)
        self.process.wait(timeout=10)

    def restart(self, how: signal.Signals = signal.SIGTERM, *, down_for: float = 0) -> None:
        """End it with a signal, and start it after a while."""
        self.stop(how)
        time.sleep(down_for)  # the outage itself
        self.start()

    def freeze(self, seconds: float) -> None:
        """Let it answer nothing for a while."""
        self.process.send_signal(signal.SIGSTOP)
        try:
            time.sleep(seconds)  # the outage itself
        finally:
            self.process.send_signal(signal.SIGCONT)

    def pause(self, seconds: float) -> None:
        """Let it take commands, and answer them after a while."""
        with Redis(port=self.port) as client:
            client.client_pause(int(seconds * 1000), all=True)
            client.ping()

    def cut_off(self, seconds: float) -> None:
        """Break every client's connection, again and again."""
        until = time.monotonic() + seconds
        with Redis(port=self.port) as client:
            while time.monotonic() < until:
                client.client_kill_filter(_type="normal", skipme=True)

    @contextmanager
    def full(self) -> Iterator[None]:
        """Let it have no memory left."""
        with Redis(port=self.port) as client:
            client.config_set("maxmemory", "1")
            try:
                yield
            finally:
                client.config_set("maxmemory", "0")

    @contextmanager
    def on_full_disk(self) -> Iterator[None]:
        """Let its append-only file not grow."""
        limits = resource.prlimit(self.process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(self.process.pid, resource.RLIMIT_FSIZE, (1, limits[1]))
        try:
            yield
        finally:
            resource.prlimit(self.process.pid, resource.RLIMIT_FSIZE, limits)


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    """A Valkey of this module's own."""
    ports = random.sample(PORTS, k=100)  # none that a server on its way up could take meanwhile
    port = next(port for port in ports if is_free(LOOPBACK, port))
    server = Valkey(tmp_path_factory.mktemp("own-valkey"), port)
    server.start()
    yield server
    server.stop(signal.SIGKILL)


@pytest.fixture(scope="module")
def valkey(own: Valkey) -> str:
    """Its URL, in the place of the session's server."""
    return f"redis://127.0.0.1:{own.port}/0"


def settle(load: Load, fleet: Fleet) -> str:
    """Wait for the end of a load that no worker died under; return the figures."""
    wait_until(load.is_done, seconds=100)
    assert all(worker.is_running() for worker in fleet.workers.values())
    assert fleet.killed == []
    return fleet.account(load)


def start(fleet: Fleet, count: int) -> None:
    """Start workers and wait until all of them work."""
    names = [fleet.start() for _ in range(count)]
    wait_until(lambda: all(map(fleet.held, names)), what="all work")


def await_more(load: Load) -> None:
    """Wait until jobs that come after this moment have run."""
    already = len(runs())
    wait_until(lambda: len(runs()) > already + 10, what="work goes on")


def test_outages_of_redis_cost_no_run(own: Valkey, broker: Broker, fleet: Fleet) -> None:
    lease = 3
    fleet.settings["LEASE_SECONDS"] = str(lease)
    outages = [
        lambda: own.restart(down_for=0.5 * lease),
        lambda: own.cut_off(1),
        lambda: own.freeze(1.2 * lease),
        lambda: own.pause(0.4 * lease),
        lambda: own.restart(signal.SIGKILL),
    ]
    with Load(broker, depth=5, rare=20, long=1.2 * lease) as load:
        start(fleet, 2)
        for outage in outages:
            await_more(load)
            outage()
    print(settle(load, fleet))


@pytest.mark.soak
@pytest.mark.timeout(1200)
def test_long_outages_under_the_eyes_of_eight_readers_cost_no_run(
    own: Valkey, broker: Broker, fleet: Fleet, readers: Path
) -> None:
    chance = random.Random(5)  # noqa: S311  # nothing secret: it repeats the same outages
    fleet.settings["LEASE_SECONDS"] = "15"  # as it is out of the box
    outages = [
        *(partial(own.restart, signal.SIGTERM if n % 2 else signal.SIGKILL) for n in range(5)),
        partial(own.freeze, 20),
        partial(own.pause, 20),
        partial(own.cut_off, 20),
        # Up to twice the time between renewals no grace is given.
        *(partial(own.restart, down_for=chance.uniform(1, 12)) for _ in range(8)),
        *(partial(own.freeze, chance.uniform(1, 12)) for _ in range(8)),
    ]
    with Load(broker, rare=20, long=20) as load:
        start(fleet, 3)
        for outage in outages:
            await_more(load)
            outage()
            seen = readers.stat().st_size
            wait_until(lambda seen=seen: readers.stat().st_size > seen + 50, what="they read on")
    print(f"{len(outages)} outages:", settle(load, fleet))


def test_a_renewal_that_fails_is_repeated_at_once(
    own: Valkey, redis: Redis, broker: Broker, fleet: Fleet
) -> None:
    lease = 6
    fleet.settings["LEASE_SECONDS"] = str(lease)
    long = request_of("a", queue="mail", type_name="safety_jobs.mail", payload='{"seconds": 60}')
    broker.enqueue([long])

    def runs_out() -> float:
        ((_, milliseconds),) = redis.zrange(keys.LEASES, 0, -1, withscores=True)
        return milliseconds / 1000

    fleet.start()
    wait_until(lambda: redis.zcard(keys.LEASES) == 1)
    first = runs_out()
    wait_until(lambda: runs_out() > first, what="the first renewal")
    renewal = runs_out() - lease + lease / 3
    wait_until(lambda: time.time() > renewal - 0.3)
    own.restart(down_for=renewal + 0.2 - time.time())
    before = runs_out()
    wait_until(lambda: runs_out() > before, what="a renewal")
    assert runs_out() - lease < renewal + 0.85 * lease / 3, "not only when the next one is due"


def one_second(job_id: str) -> EnqueueRequest:
    """Return a job that takes a second."""
    return request_of(
        job_id, queue="sync", type_name="safety_jobs.sync", payload='{"seconds": 1}', attempts=20
    )


def test_a_full_redis_takes_no_jobs_and_lets_running_ones_end(
    own: Valkey, redis: Redis, broker: Broker, fleet: Fleet
) -> None:
    name = fleet.start()
    broker.enqueue([one_second(f"job-{n}") for n in range(4)])
    wait_until(lambda: len(runs()) == 2)
    with own.full():
        with pytest.raises(RedisUnavailable, match="takes no writes"):
            broker.enqueue([one_second("refused")])
        done = redis.zcard  # not when other work of the worker happens to succeed
        wait_until(lambda: done("rq:finished:sync") == 2, seconds=6, what="both are recorded")
    wait_until(lambda: redis.zcard("rq:finished:sync") == 4, what="work goes on")
    assert fleet.workers[name].is_running()
    assert {job: len(found) for job, found in runs().items()} == {f"job-{n}": 1 for n in range(4)}
    assert unsettled(redis, runs()) == []


def test_ends_wait_until_redis_can_write_to_its_disk(
    own: Valkey, redis: Redis, broker: Broker, fleet: Fleet
) -> None:
    name = fleet.start()
    broker.enqueue([one_second(f"job-{n}") for n in range(4)])
    wait_until(lambda: len(runs()) == 2)
    with own.on_full_disk():
        wait_until(lambda: refuses(broker), what="it notices")
        wait_until(lambda: sum(run.ended is not None for (run,) in runs().values()) == 2)
        wait_until(lambda: redis.zcard(keys.LEASES) == 2, what="they still count as running")
    wait_until(lambda: redis.zcard("rq:finished:sync") == 4, what="work goes on")
    assert fleet.workers[name].is_running()
    assert {job: len(found) for job, found in runs().items()} == {f"job-{n}": 1 for n in range(4)}
    assert unsettled(redis, runs()) == []


def refuses(broker: Broker) -> bool:
    """Return whether a write that changes nothing is refused."""
    try:
        broker.enqueue([one_second("job-0")])
    except RedisUnavailable as error:
        return "takes no writes" in str(error)
    return False
