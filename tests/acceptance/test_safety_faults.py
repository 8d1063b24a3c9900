"""Workers that die before or after each call of a script: as harmless as any other kill."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path

import pytest

from jobserver.broker import Broker
from tests.acceptance.conftest import wait_until
from tests.fleet import Fleet, unfinished
from tests.load import Load, runs

OFTEN = ("exchange", "progress")
SELDOM = ("renew", "promote", "recover", "clean")
NOT_OF_WORKERS = ("reconcile",)
OF_SCHEDULERS = ("promote", "recover", "clean", "reconcile")
SOAK = [pytest.mark.soak, pytest.mark.timeout(3000)]


def calls(scripts: Iterable[str], numbers: Iterable[int]) -> list[str]:
    """Return the faults at these calls of each script."""
    return [f"{s}:{moment}:{n}" for s in scripts for n in numbers for moment in ("before", "after")]


@pytest.mark.parametrize(
    "faults",
    [
        pytest.param(calls(OFTEN, [2]) + calls(SELDOM + NOT_OF_WORKERS, [1]), id="one"),
        pytest.param(
            calls(OFTEN + SELDOM, range(1, 9)) + calls(OFTEN, range(9, 31)),
            id="first-many",
            marks=SOAK,
        ),
    ],
)
def test_a_process_may_die_before_and_after_every_call(
    broker: Broker, fleet: Fleet, tmp_path: Path, faults: list[str]
) -> None:
    struck = tmp_path / "struck"
    struck.mkdir()
    fleet.settings |= {"LEASE_SECONDS": "2", "STRUCK": str(struck)}
    with Load(broker) as load:
        fleet.start()
        for fault in faults:
            is_of_workers = fault.partition(":")[0] not in NOT_OF_WORKERS
            name = (fleet.start if is_of_workers else fleet.start_scheduler)(FAULT=fault)
            mark = struck / fault
            wait_until(lambda mark=mark: mark.exists() and mark.read_text(), what=fault)
            if int(mark.read_text()) != fleet.workers[name].pid:
                await_rerun(fleet, int(mark.read_text()))
            fleet.kill(name)
    wait_until(load.is_done, seconds=60)
    print(f"{len(faults)} faults:", fleet.account(load))


@pytest.mark.soak
@pytest.mark.timeout(3000)
def test_a_scheduler_may_die_before_and_after_every_call(
    broker: Broker, fleet: Fleet, tmp_path: Path
) -> None:
    faults = calls(OF_SCHEDULERS, range(1, 9))
    struck = tmp_path / "struck"
    struck.mkdir()
    fleet.settings |= {"LEASE_SECONDS": "2", "STRUCK": str(struck)}
    with Load(broker) as load:
        fleet.start()
        for fault in faults:
            doomed = fleet.start()
            name = fleet.start_scheduler(FAULT=fault)
            wait_until(lambda name=doomed: fleet.held(name), what="it works")
            fleet.kill(doomed)
            wait_until((struck / fault).exists, what=fault)
            fleet.kill(name)
    wait_until(load.is_done, seconds=60)
    print(f"{len(faults)} faults:", fleet.account(load))


def await_rerun(fleet: Fleet, pid: int) -> None:
    """Wait until the job whose process died runs again."""
    last = unfinished(pid)
    assert last
    fleet.killed.append((last.job, time.time()))
    wait_until(lambda: runs()[last.job][-1].pid != pid, what="the job runs again")
