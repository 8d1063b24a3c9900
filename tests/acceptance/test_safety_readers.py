"""Stock RQ's readers beside our workers: eight of them change nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from redis import Redis

from jobserver.broker import Broker
from tests.acceptance.conftest import wait_until
from tests.fleet import Fleet
from tests.load import Load, runs


@pytest.mark.parametrize("rounds", [1, pytest.param(30, marks=pytest.mark.soak)])
def test_readers_bring_no_abandoned_job_back(
    redis: Redis, broker: Broker, fleet: Fleet, readers: Path, rounds: int
) -> None:
    slots = {"WORKER_CONCURRENCY": "16", "WORKER_PROCESSES": "8"}
    fleet.settings |= {"LEASE_SECONDS": "2"} | slots
    load = Load(broker, rare=1, long=1)  # all jobs take long enough to be abandoned
    wait_until(lambda: readers.stat().st_size >= 8, what="all read")
    pushed = fronts(redis)
    for _ in range(rounds):
        load.add(8)
        name = fleet.start()
        wait_until(lambda: len(runs()) == len(load.ids), what="it runs them all")
        fleet.kill(name)
        seen = readers.stat().st_size
        wait_until(lambda seen=seen: readers.stat().st_size > seen + 40, what="they read on")
    fleet.start()
    wait_until(load.is_done, seconds=60)
    assert fronts(redis) - pushed == len(fleet.killed), "each abandoned job was pushed once"
    # No worker outlives a round.
    print(fleet.account(load, within=30 * rounds))


def fronts(redis: Redis) -> int:
    """Return how often the server has put something in front of a list."""
    return redis.info("commandstats").get("cmdstat_lpush", {"calls": 0})["calls"]
