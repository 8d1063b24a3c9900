"""The transcript of a run: nothing is lost while Redis is away, nothing is written all the time."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

import orjson
import pytest

from jobserver.errors import RedisUnavailable
from jobserver.transcript import INTERVAL, MOST_BYTES, MOST_LINES, Transcript


class Page:
    """What was written; raises while it is away."""

    def __init__(self) -> None:
        self.is_away = False
        self.writes: list[tuple[int, list[str]]] = []

    def write(self, dropped: int, lines: Sequence[bytes]) -> None:
        if self.is_away:
            raise RedisUnavailable
        self.writes.append((dropped, [orjson.loads(line)["message"] for line in lines]))


@pytest.fixture
def page() -> Page:
    return Page()


@pytest.fixture
def transcript(page: Page) -> Transcript:
    return Transcript(page.write)


def say(transcript: Transcript, *texts: object) -> None:
    for text in texts:
        record = logging.LogRecord("shop", logging.INFO, "", 0, str(text), (), None)
        transcript.add(record, attempt=1)


def test_lines_wait_while_redis_is_away(page: Page, transcript: Transcript) -> None:
    page.is_away = True
    say(transcript, "one")
    transcript.flush()
    say(transcript, "two")
    transcript.flush()
    page.is_away = False
    say(transcript, "three")
    transcript.close()
    assert page.writes == [(0, ["one", "two", "three"])]


def test_of_too_many_the_last_ones_wait(page: Page, transcript: Transcript) -> None:
    page.is_away = True
    say(transcript, *range(150))
    transcript.flush()
    say(transcript, *range(150, 300))
    page.is_away = False
    transcript.close()
    ((dropped, lines),) = page.writes
    assert (dropped, len(lines), lines[-1]) == (300 - MOST_LINES, MOST_LINES, "299")


def test_what_cannot_be_written_at_the_end_is_told(
    page: Page, transcript: Transcript, caplog: pytest.LogCaptureFixture
) -> None:
    page.is_away = True
    say(transcript, "one", "two")
    transcript.close()
    assert "2 lines of a job are not kept" in caplog.text
    transcript.flush()
    assert page.writes == []


def test_who_logs_without_end_is_written_ever_more_rarely(
    page: Page, transcript: Transcript
) -> None:
    waits = []
    for _ in range(4):
        say(transcript, *["x" * 7000] * 9)
        waits.append(transcript.due - time.monotonic())
        transcript.flush()
    transcript.close()
    assert waits == sorted(waits)
    assert waits[0] <= INTERVAL
    assert waits[-1] > INTERVAL * (1 + 3 * 9 * 7000 / MOST_BYTES) - 0.5
