"""What a line says, in JSON and on a terminal, whichever library it came through."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog
from flask import Flask

from jobserver import log
from jobserver.config import Config
from jobserver.lines import Lines
from jobserver.progress import Reporter, Run, entered

SECRET = "a-secret-of-24-characters"


@pytest.fixture
def stream() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def logger(stream: io.StringIO) -> Iterator[logging.Logger]:
    logger = logging.getLogger("shop")
    logger.setLevel(logging.INFO)
    logger.addHandler(handler := Lines(stream))
    handler.setFormatter(log.Rendered(log.as_json, secrets=[SECRET]))
    yield logger
    logger.removeHandler(handler)


@pytest.fixture
def run() -> Iterator[Run]:
    reporter = Reporter(lambda percent, message: "ok", lambda: "ok")
    run = Run(
        id="job-1",
        run_id="run-1",
        type="shop.sell",
        attempt=2,
        attempts=3,
        reporter=reporter,
        trace="req-1",
        secrets=("4111 1111",),
    )
    with entered(run):
        yield run


def said(stream: io.StringIO) -> dict[str, object]:
    fields: dict[str, object] = json.loads(stream.getvalue().splitlines()[-1])
    return fields


def test_a_line_tells_of_its_job_and_trace(
    stream: io.StringIO, logger: logging.Logger, run: Run
) -> None:
    logger.warning("sold %d", 3, extra={"shop": 7})
    fields = said(stream)
    assert str(fields.pop("timestamp")).endswith("Z")
    assert fields.pop("pid")
    assert fields == {
        **{"level": "warning", "logger": "shop", "event": "sold 3", "shop": 7},
        **{"job": "job-1", "run": "run-1", "type": "shop.sell", "attempt": 2, "trace": "req-1"},
    }


def test_a_line_of_a_request_has_its_id(stream: io.StringIO, logger: logging.Logger) -> None:
    logger.info("outside")
    assert "trace" not in said(stream)
    with Flask("shop").test_request_context(headers={"X-Request-Id": "req-9"}):
        logger.info("inside")
    assert said(stream)["trace"] == "req-9"


def test_structlog_s_lines_are_the_same(stream: io.StringIO, logger: logging.Logger) -> None:
    before = structlog.get_config() if structlog.is_configured() else None
    log.start(Config())
    try:
        bound = structlog.stdlib.get_logger("shop").bind(shop=7)
        with structlog.contextvars.bound_contextvars(customer="ada"):
            bound.info("sold %d", 3, price=1.5)
            fields = said(stream)
            logger.info("plain")
        assert fields.items() >= {
            *{"event": "sold 3", "shop": 7, "price": 1.5, "customer": "ada"}.items(),
            *{"level": "info", "logger": "shop"}.items(),
        }
        assert said(stream)["customer"] == "ada"
        try:
            raise ValueError(SECRET)
        except ValueError:
            bound.exception("failed")
        assert "ValueError: [redacted]" in str(said(stream)["exception"])
    finally:
        structlog.reset_defaults()
        if before:
            structlog.configure(**before)


def test_what_json_cannot_say_is_there_all_the_same(
    stream: io.StringIO, logger: logging.Logger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logger, "propagate", False)  # pytest -n cannot send what is no UTF-8
    logger.info("odd \udcff", extra={"when": {1, 2}, "what": object()})
    assert said(stream)["event"] == "odd \udcff"
    assert said(stream)["when"] == "{1, 2}"


@pytest.mark.parametrize("render", [log.as_json, log.as_text])
def test_secrets_of_settings_and_payload_are_in_no_line(
    stream: io.StringIO, logger: logging.Logger, run: Run, render: log.Render
) -> None:
    logger.handlers[-1].setFormatter(log.Rendered(render, secrets=[SECRET]))
    try:
        raise PermissionError(f"no entry with {SECRET}")
    except PermissionError:
        logger.exception("card %s refused", "4111 1111", extra={"sent": {"token": SECRET}})
    assert "PermissionError: no entry with [redacted]" in stream.getvalue()
    assert "card [redacted] refused" in stream.getvalue()
    assert SECRET not in stream.getvalue()
    assert "4111" not in stream.getvalue()


def test_a_line_on_a_terminal_is_read_from_left_to_right(
    stream: io.StringIO, logger: logging.Logger, run: Run
) -> None:
    logger.handlers[-1].setFormatter(log.Rendered(log.as_text))
    logger.info("sold")
    time, rest = stream.getvalue().split(" ", 1)
    assert len(time) == len("12:34:56")
    words = "INFO shop: sold job=job-1 run=run-1 type=shop.sell attempt=2 trace=req-1\n"
    assert rest == words


def test_secrets_are_those_that_were_set() -> None:
    config = Config(
        redis_url="redis://ada:p%40ssword1@host/0",
        database_url="postgresql+psycopg://jobserver:jobserver@host/db",
        admin_token="the-admin-token",
        secret_key="short",
    )
    assert set(config.secrets()) == {"p%40ssword1", "p@ssword1", "the-admin-token"}
    assert Config().secrets() == ()


def test_an_application_s_own_handlers_keep_stderr_for_themselves() -> None:
    root = logging.getLogger()
    own = logging.NullHandler()
    before, level, root.handlers = root.handlers, root.level, [own]
    try:
        assert log.start(Config()) == []
        root.handlers = []
        (first,) = log.start(Config())
        (second,) = log.start(Config(), level="ERROR")
        assert root.handlers == [second] != [first]
        assert second.level == logging.ERROR
    finally:
        root.handlers = before
        root.setLevel(level)
