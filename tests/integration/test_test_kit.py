"""The test kit that users get: `work`, `perform`, `assert_enqueued`."""

from __future__ import annotations

from dataclasses import replace

import pytest
from redis import Redis

from jobserver import JobServer, errors
from jobserver.testing import assert_enqueued, enqueued, perform, work
from tests import engine_jobs
from tests.engine_jobs import journal


def test_work_runs_what_waits_and_returns_the_jobs_as_they_stand(server: JobServer) -> None:
    low = server.enqueue("engine_jobs.add", {"a": 1}, priority="low")
    high = server.enqueue("engine_jobs.add", {"a": 2}, priority="high")
    other = server.enqueue("engine_jobs.kept")
    later = server.enqueue("engine_jobs.add", {"a": 3}, delay=3600)
    assert [job.result for job in work("IN-THREADS")] == [2, 1]
    assert server.fetch(high.id).ended_at <= server.fetch(low.id).ended_at  # type: ignore[operator]
    assert [job.id for job in work()] == [other.id]
    assert work() == []
    assert server.fetch(later.id).status == "delayed"
    with pytest.raises(errors.UnknownQueue):
        work("nothing")


def test_work_runs_what_jobs_enqueue_and_stops_when_there_is_no_end(
    server: JobServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def again(a: int, b: int) -> int:
        if a < 3:
            server.enqueue("engine_jobs.add", {"a": a + 1})
        return a

    monkeypatch.setitem(server.registry.types, "engine_jobs.add", with_function(again))
    server.enqueue("engine_jobs.add", {"a": 1})
    assert [job.result for job in work()] == [1, 2, 3]
    server.enqueue("engine_jobs.add", {"a": -10_000})
    with pytest.raises(AssertionError, match="after 5 rounds"):
        work(limit=5)


def with_function(function: object) -> object:
    """Return the type `add` with another function."""
    return replace(engine_jobs.add, function=function)  # type: ignore[arg-type]


def test_work_leaves_retries_that_wait(server: JobServer) -> None:
    server.enqueue("engine_jobs.fail_slowly")
    (job,) = work()
    assert (job.status, job.attempt) == ("delayed", 1)
    assert work() == []


def test_perform_checks_and_runs_here_and_now(server: JobServer, redis: Redis) -> None:
    assert perform("engine_jobs.add", {"a": "1", "b": 2}) == 3
    assert perform(engine_jobs.add, {"a": 1}) == 1
    with pytest.raises(errors.PayloadInvalid):
        perform(engine_jobs.add, {"a": 1, "x": 2})
    with pytest.raises(ValueError, match="always"):
        perform(engine_jobs.fail_slowly)
    with pytest.raises(errors.UnknownJobType):
        perform("engine_jobs.nothing")
    assert list(redis.scan_iter()) == []


def test_what_was_enqueued_can_be_asserted(server: JobServer) -> None:
    server.enqueue("engine_jobs.named", {"name": "a", "value": 1})
    server.enqueue("engine_jobs.named", {"name": "b", "value": 1}, delay=60)
    server.enqueue("engine_jobs.add", {"a": 1})
    assert [job.id for job in assert_enqueued("engine_jobs.named", {"name": "a"})] == ["named-a"]
    assert len(assert_enqueued(engine_jobs.named, {"value": 1}, count=2)) == 2
    assert_enqueued(engine_jobs.other, count=0)
    assert len(enqueued()) == 3
    with pytest.raises(AssertionError, match=r"0 such jobs wait, not 1.*engine_jobs\.add"):
        assert_enqueued("engine_jobs.named", {"name": "c"})
    work()
    assert_enqueued("engine_jobs.named")
    assert len(journal()) == 1
