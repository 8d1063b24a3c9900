"""Log lines that are held back and written at once."""

from __future__ import annotations

import io
import logging
import threading

import pytest

from jobserver.lines import Lines


class Stream(io.StringIO):
    """Counts its writes."""

    writes = 0

    def write(self, text: str) -> int:
        """Count and write."""
        self.writes += 1
        return super().write(text)


@pytest.fixture
def stream() -> Stream:
    return Stream()


@pytest.fixture
def logger(stream: Stream) -> logging.Logger:
    logger = logging.Logger("test")
    logger.setLevel(logging.INFO)
    logger.addHandler(Lines(stream))
    return logger


def handler_of(logger: logging.Logger) -> Lines:
    (handler,) = logger.handlers
    assert isinstance(handler, Lines)
    return handler


def test_lines_held_are_written_in_order_and_at_once(
    stream: Stream, logger: logging.Logger
) -> None:
    with handler_of(logger).held():
        logger.info("one %d", 1)
        logger.info("two")
        assert stream.getvalue() == ""
    assert (stream.getvalue(), stream.writes) == ("one 1\ntwo\n", 1)
    logger.info("three")
    assert stream.getvalue().endswith("three\n")


def test_another_thread_is_not_held_back(stream: Stream, logger: logging.Logger) -> None:
    with handler_of(logger).held():
        logger.info("held")
        thread = threading.Thread(target=logger.info, args=("at once",))
        thread.start()
        thread.join()
        assert stream.getvalue() == "at once\n"
    assert stream.getvalue() == "at once\nheld\n"


def test_lines_are_written_when_the_block_raises(stream: Stream, logger: logging.Logger) -> None:
    with pytest.raises(KeyError), handler_of(logger).held():
        logger.info("said")
        raise KeyError
    assert stream.getvalue() == "said\n"


def test_what_cannot_be_written_harms_nobody(
    stream: Stream, logger: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    with handler_of(logger).held():
        logger.info("no number: %d", "x")
    stream.close()
    with handler_of(logger).held():
        logger.info("to a closed stream")
    assert capsys.readouterr().err.count("--- Logging error ---") == 2
