"""Progress: thinned to ten writes a second, never falling, the last word always written."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobserver import JobCanceled, cancel_requested, current_run, errors, progress
from jobserver.progress import INTERVAL, LOOK, MESSAGE_CHARS, Reporter, Run, entered


class Redis:
    """Takes reports where the broker would; `answer` is what it says to them."""

    def __init__(self, answer: str = "ok") -> None:
        self.answer = answer
        self.written: list[tuple[float, str]] = []
        self.times: list[float] = []
        self.changed = threading.Condition()
        self.looks = 0

    def look(self) -> str:
        self.looks += 1
        if self.answer == "away":
            raise errors.RedisUnavailable
        return self.answer

    def __call__(self, percent: float, message: str) -> str:
        with self.changed:
            self.written.append((percent, message))
            self.times.append(time.monotonic())
            self.changed.notify_all()
        if self.answer == "away":
            raise errors.RedisUnavailable
        return self.answer


@pytest.fixture
def redis() -> Redis:
    return Redis()


@pytest.fixture
def in_a_run(redis: Redis) -> Iterator[Run]:
    with entered(a_run(redis)) as _:
        yield current_run()  # type: ignore[misc]


def a_run(redis: Redis) -> Run:
    reporter = Reporter(redis, redis.look)
    return Run(id="a", run_id="r", type="a.b", attempt=1, attempts=3, reporter=reporter)


def test_outside_a_run_progress_does_nothing() -> None:
    progress(50)
    assert current_run() is None
    assert not cancel_requested()


def test_the_first_word_is_written_at_once_and_the_last_at_the_end(redis: Redis) -> None:
    with entered(a_run(redis)):
        for done in range(1, 100):
            progress(done, 100, message=f"step {done}")
        assert redis.written == [(1, "step 1")]
    assert redis.written == [(1, "step 1"), (99, "step 99")]
    assert current_run() is None


def test_the_end_of_a_run_waits_for_the_word_that_is_being_written() -> None:
    begun, go_on = threading.Event(), threading.Event()
    written: list[str] = []

    def report(_: float, message: str) -> str:
        if message == "two":
            begun.set()
            assert go_on.wait(10)
        written.append(message)
        return "ok"

    reporter = Reporter(report, lambda: "ok")
    reporter.say(1, "one")
    reporter.say(100, "two")
    assert begun.wait(10), "by the timer"
    end = threading.Thread(target=reporter.close)
    end.start()
    end.join(0.05)
    assert end.is_alive()
    go_on.set()
    end.join(10)
    assert written == ["one", "two"]


def test_what_was_held_back_is_written_while_the_job_says_nothing(redis: Redis) -> None:
    with entered(a_run(redis)), redis.changed:
        progress(10)
        progress(20)
        progress(30, message="three")
        assert redis.changed.wait_for(lambda: len(redis.written) == 2, timeout=10)
        assert redis.written == [(10, ""), (30, "three")]
        assert redis.times[1] - redis.times[0] >= INTERVAL
    assert len(redis.written) == 2


def test_at_most_ten_writes_a_second_whatever_the_job_says(redis: Redis) -> None:
    spoken, start = 0, time.monotonic()
    with entered(a_run(redis)):
        while time.monotonic() < start + 0.55:
            spoken += 1
            progress(spoken, 10**9, message=str(spoken))
    assert spoken > 100
    assert 2 <= len(redis.written) <= (redis.times[-1] - start) / INTERVAL + 2
    assert redis.written[-1][1] == str(spoken)


def test_a_long_run_says_less_often_how_far_it_is(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    began = now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now)
    written = {}
    with entered(a_run(redis)):
        for minute in range(24 * 60):
            for second in range(60):
                now = began + 60 * minute + second
                progress(minute, 24 * 60, message=f"{minute}:{second}")
            written[minute] = len(redis.written)
    assert written[0] >= 55  # once a second is not too often then
    assert 10 <= written[60] - written[59] <= 13
    assert written[24 * 60 - 1] < 18_000
    assert redis.written[-1][1] == "1439:59"


@given(st.lists(st.floats(), min_size=1, max_size=30))
def test_progress_never_falls_and_stays_a_percentage(said: list[float]) -> None:
    redis = Redis()
    reporter = Reporter(redis, redis.look)
    for percent in said:
        reporter.say(percent, "")
        reporter.close()
    values = [percent for percent, _ in redis.written]
    assert values == sorted(values)
    assert all(0 <= percent <= 100 for percent in values)
    assert values[-1] == max(0, *(min(100, p) for p in said if p == p), 0)


def test_a_message_is_cut_before_it_fills_the_event_stream(redis: Redis) -> None:
    with entered(a_run(redis)):
        progress(10, message="x" * 10_000)
    assert redis.written == [(10, "x" * MESSAGE_CHARS)]


@pytest.mark.parametrize(
    ("done", "total", "percent"),
    [(30, None, 30), (3, 10, 30), (1, 3, 100 / 3), (0, 0, 100), (11, 10, 100), (-1, 10, 0)],
)
def test_done_of_total_is_a_percentage(
    redis: Redis, done: float, total: float | None, percent: float
) -> None:
    with entered(a_run(redis)):
        progress(done, total)
    assert redis.written == [(percent, "")]


@pytest.mark.parametrize(("answer", "why"), [("canceled", "canceled"), ("lost", "another worker")])
def test_a_run_that_should_stop_is_told_by_its_report(redis: Redis, answer: str, why: str) -> None:
    with entered(a_run(redis)):
        progress(1)
        assert not cancel_requested()
        redis.answer = answer
        with pytest.raises(JobCanceled, match=why), redis.changed:
            while True:  # the second report waits its turn, and brings the answer
                progress(2)
                assert redis.changed.wait(timeout=10)
        assert cancel_requested()


@pytest.mark.parametrize("answer", ["canceled", "lost"])
def test_a_run_that_says_nothing_learns_that_it_should_stop(
    redis: Redis, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now)
    with entered(a_run(redis)):
        assert not cancel_requested()
        redis.answer = answer
        now += LOOK * 0.9
        assert not cancel_requested()
        assert redis.looks == 1, "it asks once a second at most"
        now += LOOK * 0.2
        assert cancel_requested()
        redis.answer = "away"
        now += LOOK * 2
        assert cancel_requested(), "what is known needs no Redis"
        assert redis.looks == 2
    assert redis.written == []


def test_without_redis_a_job_is_not_told_to_stop(
    redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    redis.answer = "away"
    with entered(a_run(redis)):
        assert not cancel_requested()
        assert not cancel_requested()
    assert caplog.text.count("not known whether") == 1


def test_without_redis_a_job_goes_on(redis: Redis, caplog: pytest.LogCaptureFixture) -> None:
    redis.answer = "away"
    with entered(a_run(redis)):
        progress(1)
        redis.answer = "ok"
    assert "progress not written" in caplog.text


def test_a_run_of_another_thread_is_not_this_one(in_a_run: Run) -> None:
    found: list[Run | None] = []
    thread = threading.Thread(target=lambda: found.append(current_run()))
    thread.start()
    thread.join()
    assert found == [None]
    assert current_run() is in_a_run
