"""Jobs that wait for others, when nobody told them of an end: found by a look, all in turn."""

from __future__ import annotations

import pytest
from redis import Redis
from rq import Queue as RQQueue
from rq.job import Job as RQJob
from rq.serializers import JSONSerializer

from jobserver import JobServer
from jobserver.broker import stock
from jobserver.broker.stock import Dependents
from tests.hands import places


@pytest.fixture
def rq(redis: Redis) -> RQQueue:
    return RQQueue("in-threads", connection=redis, serializer=JSONSerializer)


def enqueue(rq: RQQueue, **options: object) -> RQJob:
    return rq.enqueue("jobserver.runner.run", args=("engine_jobs.add", {"a": 1}), **options)


def test_a_look_finds_every_job_whose_wait_is_over(
    server: JobServer, redis: Redis, rq: RQQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stock, "LOOK", 50)
    first, second = enqueue(rq), enqueue(rq)
    waits = [enqueue(rq, depends_on=second) for _ in range(130)]
    free = [enqueue(rq, depends_on=first) for _ in range(10)]
    redis.delete(first.key)  # as its retention, or a stock tool does
    dependents = Dependents(redis)
    for _ in range(10):
        dependents.look_through("in-threads")
    assert {tuple(places(redis, job.id)) for job in free} == {("queue:in-threads",)}
    assert redis.zcard("rq:deferred:in-threads") == len(waits)
    redis.hset(second.key, "status", "failed")
    lost: set[str] = set()
    for _ in range(10):
        lost |= {job_id for job_id, *end in dependents.look_through("in-threads")[1]}
    assert lost == {job.id for job in waits}


def test_a_job_that_waits_for_two_that_have_ended_starts_once(
    server: JobServer, redis: Redis, rq: RQQueue
) -> None:
    parents = [enqueue(rq), enqueue(rq)]
    child = enqueue(rq, depends_on=parents)
    for parent in parents:
        redis.hset(parent.key, "status", "finished")
    dependents = Dependents(redis)
    assert dependents.enqueue(parents[0].id, "finished") == {"in-threads"}
    assert dependents.enqueue(parents[1].id, "finished") == set()
    assert places(redis, child.id) == ["queue:in-threads"]
    assert rq.get_job_ids().count(child.id) == 1


def test_what_is_left_to_do_with_an_end_is_handed_out_until_it_is_done(
    server: JobServer, redis: Redis
) -> None:
    broker = server.broker
    job = enqueue(RQQueue("in-threads", connection=redis, serializer=JSONSerializer))
    server.cancel(job.id)
    found = broker.aftermath(hold=0)
    assert found is not None
    entry, mark = found
    assert entry == f"canceled:{job.id}"
    again = broker.aftermath(hold=60)
    assert again is not None
    assert again[0] == entry, "nobody said that it is done"
    assert broker.aftermath(hold=60) is None
    if again[1] != mark:
        broker.done(entry, mark)
        assert redis.exists("jobserver:aftermath"), "another worker has it now"
    kept = broker.keep(entry, again[1], hold=600)
    assert kept
    assert kept > again[1]
    assert broker.keep(entry, again[1], hold=600) is None
    broker.done(entry, kept)
    assert not redis.exists("jobserver:aftermath")
