"""Log lines that are held back and written at once."""

from __future__ import annotations

import io
import itertools
import logging
import threading
import time
from typing import Any

import pytest

from jobserver.lines import FrequentLine, Lines, all_held


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
    with all_held([handler_of(logger)]):
        logger.info("one %d", 1)
        logger.info("two")
        assert stream.getvalue() == ""
    assert (stream.getvalue(), stream.writes) == ("one 1\ntwo\n", 1)
    logger.info("three")
    assert stream.getvalue().endswith("three\n")


def test_another_thread_is_not_held_back(stream: Stream, logger: logging.Logger) -> None:
    with all_held([handler_of(logger)]):
        logger.info("held")
        thread = threading.Thread(target=logger.info, args=("at once",))
        thread.start()
        thread.join()
        assert stream.getvalue() == "at once\n"
    assert stream.getvalue() == "at once\nheld\n"


def test_lines_are_written_when_the_block_raises(stream: Stream, logger: logging.Logger) -> None:
    with pytest.raises(KeyError), all_held([handler_of(logger)]):
        logger.info("said")
        raise KeyError
    assert stream.getvalue() == "said\n"


def test_what_cannot_be_written_harms_nobody(
    stream: Stream, logger: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    with all_held([handler_of(logger)]):
        logger.info("no number: %d", "x")
    stream.close()
    with all_held([handler_of(logger)]):
        logger.info("to a closed stream")
    assert capsys.readouterr().err.count("--- Logging error ---") == 2


def test_a_frequent_line_is_as_any_other() -> None:
    logger, records = logging.Logger("often"), list[logging.LogRecord]()
    logger.handle = records.append  # type: ignore[assignment,method-assign]
    line = FrequentLine(logger, "Job %s took %d ms")
    for number in range(3):
        before = time.time()
        line.log("a", number, extra={"fields": {"n": number}})
        logger.info("Job %s took %d ms", "a", number, extra={"fields": {"n": number}})
        ours, plain = records[-2:]
        assert before <= ours.created <= plain.created
        assert ours.msecs == int(ours.created % 1 * 1000)
        assert plain.relativeCreated - ours.relativeCreated == pytest.approx(
            (plain.created - ours.created) * 1000, abs=0.01
        )
        known = {"created", "msecs", "relativeCreated", "pathname", "filename", "module"}
        known |= {"lineno", "funcName"}
        assert {name: value for name, value in vars(ours).items() if name not in known} == {
            name: value for name, value in vars(plain).items() if name not in known
        }
    assert [record.getMessage() for record in records[::2]] == [
        f"Job a took {number} ms" for number in range(3)
    ]


def test_a_frequent_line_is_wanted_as_the_level_says() -> None:
    logger = logging.getLogger("test.often")
    line = FrequentLine(logger, "said")
    logger.setLevel(logging.WARNING)
    assert not line.is_wanted
    logger.setLevel(logging.INFO)
    assert line.is_wanted


def test_a_record_factory_of_the_application_makes_each_record() -> None:
    logger, records = logging.Logger("often"), list[logging.LogRecord]()
    logger.handle = records.append  # type: ignore[assignment,method-assign]
    line, numbers = FrequentLine(logger, "said"), itertools.count()

    def factory(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = logging.LogRecord(*args, **kwargs)
        record.number = next(numbers)
        return record

    line.log(extra={})
    logging.setLogRecordFactory(factory)
    try:
        line.log(extra={"n": 1})
        line.log(extra={"n": 2})
    finally:
        logging.setLogRecordFactory(logging.LogRecord)
    assert [(vars(one)["number"], vars(one)["n"]) for one in records[1:]] == [(0, 1), (1, 2)]
