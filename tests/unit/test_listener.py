"""Listeners: declared like job types, called in a thread of their own, harmless."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace

import pytest

from jobserver import JobEvent, errors, on
from jobserver.listener import BACKLOG, Listeners
from jobserver.registry import Registry

EVENT = JobEvent(
    name="failed",
    job_id="a",
    run_id="r",
    type="test.it",
    queue="q",
    attempt=1,
    attempts=3,
    seconds=0.5,
    error_type="ValueError",
    error_message="no",
)


def listeners(*found: tuple[str, Callable[[JobEvent], object]]) -> Listeners:
    return Listeners([on(name)(function) for name, function in found], context=nullcontext)  # type: ignore[arg-type]


def test_a_listener_gets_its_events_in_order_in_another_thread() -> None:
    heard: list[tuple[str, str]] = []
    threads: set[int] = set()

    def hear(event: JobEvent) -> None:
        heard.append((event.name, event.job_id))
        threads.add(threading.get_ident())

    told = listeners(("failed", hear), ("retry", hear))
    for number in range(20):
        told.tell(replace(EVENT, job_id=str(number)))
        told.tell(replace(EVENT, name="completed"))
    told.tell(replace(EVENT, name="retry"))
    told.close(within=5)
    assert heard == [*(("failed", str(number)) for number in range(20)), ("retry", "a")]
    assert threading.get_ident() not in threads


def test_a_poisoned_job_is_told_as_poison_and_as_failed() -> None:
    heard: list[str] = []
    told = listeners(
        ("poison", lambda event: heard.append(event.name)),
        ("failed", lambda event: heard.append(event.name)),
    )
    told.tell(replace(EVENT, error_type="Poison"))
    told.close(within=5)
    assert sorted(heard) == ["failed", "poison"]


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit(1)])
def test_a_listener_that_fails_harms_nobody(
    error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    heard: list[str] = []

    def fail(event: JobEvent) -> None:
        raise error

    told = listeners(("failed", fail), ("failed", lambda event: heard.append(event.job_id)))
    told.tell(EVENT)
    told.tell(replace(EVENT, job_id="b"))
    told.close(within=5)
    assert heard == ["a", "b"]
    assert [record.levelno for record in caplog.records] == [logging.ERROR] * 2
    assert caplog.records[0].exc_info


def test_a_slow_listener_holds_up_nobody(caplog: pytest.LogCaptureFixture) -> None:
    gate, heard = threading.Event(), []

    def wait(event: JobEvent) -> None:
        gate.wait(20)
        heard.append(event.job_id)

    told = listeners(("failed", wait))
    for _ in range(BACKLOG + 10):
        told.tell(EVENT)
    assert "too slow" in caplog.text
    gate.set()
    told.close(within=20)
    assert BACKLOG <= len(heard) <= BACKLOG + 1


def test_there_is_no_thread_without_something_to_tell() -> None:
    before = threading.active_count()
    told = listeners(("failed", print))
    told.tell(replace(EVENT, name="completed"))
    assert threading.active_count() == before
    told.close(within=0)
    assert told.are_any
    assert not listeners().are_any


@pytest.mark.parametrize("names", [(), ("finished",), ("failed", "Failed")])
def test_an_unknown_event_is_refused(names: tuple) -> None:
    with pytest.raises(errors.DeclarationInvalid, match="completed, failed, retry"):
        on(*names)


def test_a_listener_is_still_a_function() -> None:
    assert on("failed")(lambda event: event.job_id)(EVENT) == "a"


def test_listeners_are_found_like_job_types() -> None:
    registry = Registry()
    registry.discover(["tests.listening_app"])
    registry.discover(["tests.listening_app"])
    assert [listener.names for listener in registry.listeners][-1:] == [("failed",)]
    assert len(registry.listeners) == 2
