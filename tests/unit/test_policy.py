"""Queues, policies and backoffs: what they compute and what they refuse at declaration."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobserver import Backoff, Policy, Queue, Retention, errors, exponential, fixed, steps
from jobserver.policy import DAY, priority_of

seconds = st.floats(0, 1e9)


def waits(backoff: Backoff, attempts: int) -> list[float]:
    return [backoff.wait(attempt) for attempt in range(1, attempts + 1)]


@pytest.mark.parametrize(
    ("backoff", "expected"),
    [
        (exponential(2), [2, 4, 8, 16]),
        (exponential(5, factor=5), [5, 25, 125, 625]),
        (exponential(30, cap=100), [30, 60, 100, 100]),
        (exponential(0), [0, 0, 0, 0]),
        (fixed(7), [7, 7, 7, 7]),
        (fixed(3 * DAY), [3 * DAY] * 4),
        (steps(1, 60, 3600), [1, 60, 3600, 3600]),
        (steps(0, 2 * DAY), [0, 2 * DAY, 2 * DAY, 2 * DAY]),
        (Backoff(), [0, 0, 0, 0]),
    ],
    ids=repr,
)
def test_backoff_waits_as_declared(backoff: Backoff, expected: list[float]) -> None:
    assert waits(backoff, 4) == expected


@given(
    delay=seconds,
    factor=st.floats(1, 1e300),
    cap=st.floats(1e-3, 1e9),
    attempt=st.integers(1, 10**9),
)
def test_no_attempt_is_too_late_for_a_backoff(
    delay: float, factor: float, cap: float, attempt: int
) -> None:
    backoff = exponential(delay, factor=factor, cap=cap)
    wait = backoff.wait(attempt)
    assert 0 <= wait <= cap
    assert wait >= min(delay, cap)
    assert wait <= backoff.wait(attempt + 1)


@given(delay=seconds, jitter=st.floats(0, 1), draw=st.floats(0, 1, exclude_max=True))
def test_jitter_draws_only_its_share(delay: float, jitter: float, draw: float) -> None:
    backoff = fixed(delay, jitter=jitter)
    wait = backoff.wait(1, draw=lambda: draw)
    assert delay * (1 - jitter) * (1 - 1e-9) <= wait <= delay * (1 + 1e-9)
    assert backoff.wait(1, draw=lambda: 0) <= wait


def test_full_jitter_spreads_over_the_whole_wait() -> None:
    backoff = fixed(100, jitter=1)
    drawn = {round(backoff.wait(1)) for _ in range(1000)}
    assert min(drawn) < 10
    assert max(drawn) > 90


@pytest.mark.parametrize(
    "wrong",
    [
        {"delay": -1},
        {"delay": float("nan")},
        {"delay": float("inf")},
        {"delays": (1, -1)},
        {"delays": (1, float("inf"))},
        {"factor": 0.5},
        {"factor": float("inf")},
        {"cap": 0},
        {"cap": float("inf")},
        {"cap": 1e12},
        {"jitter": 1.1},
        {"jitter": -0.1},
    ],
    ids=repr,
)
def test_an_impossible_backoff_is_refused_by_its_name(wrong: dict[str, Any]) -> None:
    with pytest.raises(errors.DeclarationInvalid, match=next(iter(wrong))):
        Backoff(**wrong)


def test_steps_without_a_step_are_refused() -> None:
    with pytest.raises(errors.DeclarationInvalid, match="delays"):
        steps()


@pytest.mark.parametrize(
    "wrong",
    [
        {"attempts": 0},
        {"attempts": 2.5},
        {"attempts": True},
        {"timeout": 0},
        {"timeout": 1.5},
        {"timeout": -1},
        {"when_active": "replace"},
    ],
    ids=repr,
)
def test_an_impossible_policy_is_refused_by_its_name(wrong: dict[str, Any]) -> None:
    with pytest.raises(errors.DeclarationInvalid, match=next(iter(wrong))):
        Policy(**wrong)


def test_only_the_errors_of_the_policy_are_retried() -> None:
    class Gone(LookupError):
        pass

    policy = Policy(retry_on=(LookupError, OSError), no_retry_on=(Gone,))
    assert policy.retries(KeyError)
    assert policy.retries(TimeoutError)
    assert not policy.retries(Gone)
    assert not policy.retries(ValueError)
    assert not Policy().retries(KeyboardInterrupt)


@pytest.mark.parametrize(
    "name", ["", "Sync", "product_sync", "a:high", "-a", "a-", "a--b", "a b", "ä", "a\n", "status"]
)
def test_a_queue_name_that_no_route_could_carry_is_refused(name: str) -> None:
    with pytest.raises(errors.DeclarationInvalid, match="name"):
        Queue(name)


@pytest.mark.parametrize(
    "wrong",
    [
        {"executor": "fork"},
        {"concurrency": 0},
        {"concurrency": 1.5},
        {"global_concurrency": -1},
        {"weight": 0},
        {"memory_limit": 0},
        {"attempts": 0},
        {"timeout": 0},
        {"aliases": "sync"},
        {"aliases": ["sync"]},
    ],
    ids=repr,
)
def test_an_impossible_queue_is_refused_by_its_name(wrong: dict[str, Any]) -> None:
    with pytest.raises(errors.DeclarationInvalid, match=next(iter(wrong))):
        Queue("a", **wrong)


@pytest.mark.parametrize(
    "wrong",
    [{"completed_count": -1}, {"failed_count": -1}, {"completed_age": 0}, {"failed_age": 0.5}],
    ids=repr,
)
def test_an_impossible_retention_is_refused_by_its_name(wrong: dict[str, Any]) -> None:
    with pytest.raises(errors.DeclarationInvalid, match=next(iter(wrong))):
        Retention(**wrong)


def test_priorities_lie_in_three_queues_of_rq_in_the_order_they_are_served() -> None:
    assert Queue("sync").origins == ("sync:high", "sync", "sync:low")


@pytest.mark.parametrize(
    ("given_", "expected"),
    [
        *(("high", "high"), ("normal", "normal"), ("low", "low")),
        *((0, "normal"), (1, "high"), (3, "high"), (4, "normal"), (10, "normal")),
        *((11, "low"), (2**21, "low")),
    ],
)
def test_bulls_priority_numbers_have_a_word(given_: Any, expected: str) -> None:
    assert priority_of(given_) == expected


@given(st.integers(1, 2**21), st.integers(1, 2**21))
def test_a_lower_number_is_never_served_after_a_higher_one(one: int, two: int) -> None:
    order = ["high", "normal", "low"]
    first, last = min(one, two), max(one, two)
    assert order.index(priority_of(first)) <= order.index(priority_of(last))


@pytest.mark.parametrize("wrong", [-1, "urgent", "High", "", None, 1.5, True, math.nan])
def test_an_unknown_priority_is_refused(wrong: Any) -> None:
    with pytest.raises(errors.DeclarationInvalid, match="priority"):
        priority_of(wrong)


def test_the_environment_overrides_what_a_queue_declares() -> None:
    declared = Queue(
        "sync", concurrency=5, aliases=("s",), retention=Retention(completed_count=7, failed_age=99)
    )
    changed = declared.overridden(
        {"concurrency": 2, "timeout": 300, "completed_count": 1, "completed_age": 60.5}
    )
    assert (changed.concurrency, changed.timeout, changed.attempts) == (2, 300, None)
    assert changed.retention == Retention(completed_count=1, completed_age=60.5, failed_age=99)
    assert changed.aliases == ("s",)
    assert declared.overridden({}) == declared
