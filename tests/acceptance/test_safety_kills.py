"""Workers terminated and killed under load: nothing is lost, stranded or run more than it must."""

from __future__ import annotations

import os
import random
from pathlib import Path

import psutil
import pytest

from jobserver.broker import Broker
from tests.acceptance.conftest import StartWorker, wait_until
from tests.fleet import Fleet
from tests.hands import request_of
from tests.load import Load, runs, unsettled


def await_notes(count: int) -> None:
    """Wait until jobs have written `count` more lines into the journal."""
    journal = Path(os.environ["JOURNAL"])
    journal.touch()
    line = 40  # bytes, about
    enough = journal.stat().st_size + count * line
    wait_until(lambda: journal.stat().st_size >= enough, what="jobs run")


@pytest.mark.parametrize(
    ("rounds", "lease"),
    [(3, "2"), pytest.param(100, "15", marks=[pytest.mark.soak, pytest.mark.timeout(1800)])],
)
def test_terminations_and_kills_under_load_lose_nothing(
    broker: Broker, fleet: Fleet, rounds: int, lease: str
) -> None:
    chance = random.Random(7)  # noqa: S311  # nothing secret: it repeats the same load
    fleet.settings["LEASE_SECONDS"] = lease
    with Load(broker) as load:
        names = [fleet.start(), fleet.start()]
        for turn in range(2 * rounds):
            wait_until(lambda: all(map(fleet.held, names)), seconds=40, what="both work")
            name = names.pop(0)
            await_notes(chance.randrange(20))  # so that it is anywhere in its work
            _ = fleet.kill(name) if turn % 2 else fleet.terminate(name)
            names.append(fleet.start())
    wait_until(load.is_done, seconds=60)
    print(f"{rounds} terminations, {rounds} kills:", fleet.account(load))


@pytest.mark.parametrize(
    "rounds", [6, pytest.param(100, marks=[pytest.mark.soak, pytest.mark.timeout(1800)])]
)
def test_killed_children_cost_their_own_job_one_run(
    broker: Broker, fleet: Fleet, rounds: int
) -> None:
    with Load(broker) as load:
        names = [fleet.start(), fleet.start()]
        for turn in range(rounds):
            wait_until(lambda name=names[turn % 2]: fleet.kill_child(name), what="a child works")
    wait_until(load.is_done, seconds=60)
    assert all(worker.is_running() for worker in fleet.workers.values())
    print(f"{rounds} children killed:", fleet.account(load))


def test_a_killed_template_costs_only_what_ran_in_its_children(
    broker: Broker, fleet: Fleet, start_worker: StartWorker
) -> None:
    lasting = [
        request_of(
            f"{queue}-{n}",
            queue=queue,
            type_name=f"safety_jobs.{queue}",
            attempts=20,
            payload='{"seconds": 2}',
        )
        for queue in ("mail", "sync")
        for n in range(2)
    ]
    patient = {"DRAIN_SECONDS": "20", "LEASE_SECONDS": "15"}
    doomed = start_worker(**fleet.settings | patient)
    broker.enqueue(lasting)
    wait_until(lambda: len(runs()) == 4, seconds=40, what="all run")
    (template,) = psutil.Process(doomed.pid).children()
    template.kill()
    assert doomed.wait(timeout=30) == 3
    fleet.start()
    wait_until(lambda: all(broker.fetch(job.id).is_ended for job in lasting), seconds=40)
    found = {job: [run.attempt for run in its] for job, its in runs().items()}
    assert found == {"mail-0": [1], "mail-1": [1], "sync-0": [1, 2], "sync-1": [1, 2]}
    assert unsettled(broker.connection, found) == []
