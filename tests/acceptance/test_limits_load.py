"""What a queue is limited to holds on real workers under load, kills among them."""

from __future__ import annotations

import random
from collections.abc import Iterable

import pytest
from redis import Redis

from jobserver import JobServer
from jobserver.broker import Broker, keys
from jobserver.errors import WrongState
from tests.acceptance.conftest import wait_until
from tests.engine_jobs import journal
from tests.fleet import Fleet
from tests.hands import events
from tests.load import Load, Run, runs
from tests.safety_jobs import KEPT, MAIL, REPORT, SYNC

QUEUES = {queue.name: queue for queue in (MAIL, SYNC, REPORT)}
MOST = 2  # of a scarce queue's jobs may run at a time


@pytest.mark.parametrize(
    ("jobs", "kills"),
    [(500, 2), pytest.param(5000, 30, marks=[pytest.mark.soak, pytest.mark.timeout(1800)])],
)
def test_no_more_run_at_a_time_than_a_queue_allows_whatever_is_killed(
    server: JobServer, fleet: Fleet, redis: Redis, jobs: int, kills: int
) -> None:
    fleet.settings |= {"JOBSERVER_APP": "tests.engine_app:create_app", "LEASE_SECONDS": "1"}
    queues = {"scarce": "toil_in_process", "scarce-threads": "toil_in_thread"}
    for name in queues.values():
        server.enqueue_many(f"limited_jobs.{name}", [{"seconds": 0.02}] * (jobs // len(queues)))
    names = [fleet.start(), fleet.start()]
    for turn in range(kills):
        wait_until(lambda turn=turn: len(journal()) > (turn + 1) * jobs / (kills + 1))
        wait_until(lambda: any(map(fleet.held, names)), what="one works")
        name = max(names, key=lambda name: len(fleet.held(name)))
        names.remove(name)
        fleet.kill(name)
        names.append(fleet.start())
    wait_until(lambda: in_registries(redis, queues) == jobs, seconds=60, what="all are done")
    for queue in queues:
        found = [run for its in runs().values() for run in its if origin(redis, run.job) == queue]
        assert len(found) >= jobs // len(queues)
        assert most_at_once(found, fleet.killed) == MOST


def in_registries(redis: Redis, queues: Iterable[str], names: Iterable[str] = ("finished",)) -> int:
    return sum(redis.zcard(keys.registry(name, queue)) for name in names for queue in queues)


def origin(redis: Redis, job_id: str) -> str:
    found = redis.hget(keys.job(job_id), "origin")
    assert found
    return found.decode()


def most_at_once(found: list[Run], killed: list[tuple[str, float]]) -> int:
    """Return how many runs overlapped at most; one without an end ended when it was killed."""
    moments: list[tuple[float, int]] = []
    for run in found:
        # It may have begun between the look at the clock and the kill.
        kills = [at for job, at in killed if job == run.job and at > run.begun - 0.5]
        assert run.ended or kills, "it has an end"
        ended = run.ended or max(min(kills), run.begun)
        moments += [(run.begun, 1), (ended, -1)]
    most = running = 0
    for _, step in sorted(moments):
        running += step
        most = max(most, running)
    return most


@pytest.mark.parametrize(
    "rounds", [3, pytest.param(60, marks=[pytest.mark.soak, pytest.mark.timeout(1800)])]
)
def test_pause_and_cancel_hold_under_load(
    broker: Broker, server: JobServer, fleet: Fleet, redis: Redis, rounds: int
) -> None:
    chance = random.Random(11)  # noqa: S311  # nothing secret: it repeats the same choices
    fleet.settings["LEASE_SECONDS"] = "2"
    canceled: set[str] = set()  # before they ran
    asked: set[str] = set()  # while they ran
    load = Load(broker, long=0.6, rare=20)
    names = [fleet.start(), fleet.start()]
    for turn in range(rounds):
        queue = ("mail", "sync", "report")[turn % 3]
        load.add(40)
        wait_until(lambda queue=queue: active(redis, queue), what="it runs")
        server.broker.pause(QUEUES[queue])
        held, begun = active(redis, queue), began(queue)
        some = [
            *chance.sample(load.ids[-100:], k=10),
            *(j for q in QUEUES for j in active(redis, q)),
        ]
        cancel(server, some, canceled=canceled, asked=asked)
        if turn == 1:
            fleet.kill(names.pop(0))
            names.append(fleet.start())
        wait_until(lambda queue=queue: not active(redis, queue), what="what ran is through")
        load.add(20)
        count = len(journal())
        wait_until(lambda count=count: len(journal()) > count + 40, what="others run on")
        assert {job for job, _ in began(queue) - begun} <= held
        server.broker.resume(QUEUES[queue])
    ended = ("finished", "failed", "canceled")
    wait_until(
        lambda: in_registries(redis, QUEUES, ended) == len(load.ids),
        seconds=60,
        what="all have ended",
    )
    found = dict(zip(load.ids, server.broker.fetch_many(load.ids), strict=True))
    assert canceled
    assert asked
    assert not canceled & set(runs()), "what was canceled before it ran never runs"
    for job_id, job in found.items():
        assert job
        wanted = "canceled" if job_id in canceled | asked else "completed"
        assert (job.status, job.result is None) == (wanted, wanted == "canceled"), job_id
    nothing_started_while_paused(redis)


def cancel(server: JobServer, ids: Iterable[str], *, canceled: set[str], asked: set[str]) -> None:
    """Cancel jobs in whatever state they are, and note what was promised."""
    for job_id in ids:
        try:
            answer = server.broker.cancel(job_id, retention=KEPT)
        except WrongState:
            continue
        (asked if answer == "asked" else canceled).add(job_id)


def active(redis: Redis, queue: str) -> set[str]:
    entries = redis.zrange(keys.registry("wip", queue), 0, -1)
    return {entry.decode().partition(":")[0] for entry in entries}


def began(queue: str) -> set[tuple[str, int]]:
    found = runs()
    return {
        (job, run.attempt)
        for job, its in found.items()
        for run in its
        if job.startswith(f"{queue}-")
    }


def nothing_started_while_paused(redis: Redis) -> None:
    paused: set[str] = set()
    for event in events(redis):
        if event["event"] == "paused":
            paused.add(event["queue"])
        elif event["event"] == "resumed":
            paused.remove(event["queue"])
        assert event["event"] != "claimed" or event["queue"] not in paused
