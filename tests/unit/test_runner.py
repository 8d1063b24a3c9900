"""The runner: whatever a job does, there is an end for it, and one that can be written."""

from __future__ import annotations

import base64
import math
import os
import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import orjson
import pytest
from flask import Flask, current_app
from marshmallow import Schema, fields, pre_load

from jobserver import (
    Backoff,
    Discard,
    JobCanceled,
    JobServer,
    Policy,
    RateLimited,
    Snooze,
    current_run,
    errors,
    fixed,
    job,
    scheduled_at,
)
from jobserver.broker import Claim, Ending
from jobserver.broker.job import call_of, envelope
from jobserver.outcomes import JobTimeout
from jobserver.payload import MAX_BYTES, dumps
from jobserver.runner import MESSAGE_CHARS, TRACEBACK_BYTES, perform, run
from tests.engine_app import create_app


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> JobServer:
    """The engine's test app, with no Redis anywhere."""
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1")
    return create_app().extensions["jobserver"]


class Unusual(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


class Broken(Schema):
    a = fields.Integer()

    @pre_load
    def fail(self, data: Mapping[str, Any], **_: object) -> Mapping[str, Any]:
        raise LookupError("the schema's own mistake")


def claim_of(type_name: str, payload: object, **changed: Any) -> Claim:
    data = envelope("jobserver.runner.run", type_name, dumps(payload)).encode()
    claimed: dict[str, Any] = {
        **{"id": "a", "exec": "e", "run": "r", "type": type_name, "data": data, "timeout": 180},
        **{"attempt": 1, "attempts": 3, "backoff": "", "origin": "in-threads"},
        **{"started": time.time(), "canceled": False},
    }
    return Claim(**{**claimed, **changed})


def ends(server: JobServer, function: Callable[[], object], **claimed: Any) -> Ending:
    """Run a function as a job type with three attempts and two seconds between them."""
    policy = Policy(backoff=fixed(2), no_retry_on=(PermissionError,))
    server.registry.types["test.it"] = job(queue="in-threads", name="test.it", policy=policy)(
        function
    )
    return perform(server, claim_of("test.it", {}, **claimed))


def raises(error: BaseException) -> Callable[[], object]:
    def function() -> None:
        raise error

    return function


def traceback_of(ending: Ending) -> str:
    return zlib.decompress(base64.b64decode(ending.value)).decode()


def test_a_result_is_packed_as_rq_reads_it(server: JobServer) -> None:
    ending = perform(server, claim_of("engine_jobs.add", {"a": 1, "b": 2}))
    assert (ending.word, base64.b64decode(ending.value)) == ("completed", b"3")


def test_a_tick_of_a_schedule_knows_the_time_it_was_due_for(server: JobServer) -> None:
    told: list[datetime | None] = []
    data = envelope("jobserver.runner.run", "test.it", b"{}", scheduled_at=1_700_000_000.25)
    for claimed in ({"data": data.encode()}, {}):
        ending = ends(server, lambda: told.append(scheduled_at()), **claimed)
        assert ending.word == "completed"
    assert told == [datetime(2023, 11, 14, 22, 13, 20, 250_000, tzinfo=UTC), None]
    assert scheduled_at() is None


def test_a_job_runs_in_the_app_and_knows_its_run(server: JobServer) -> None:
    seen: list[object] = []

    def look() -> None:
        run_now = current_run()
        assert run_now is not None
        seen.extend((current_app.name, run_now.id, run_now.run_id, run_now.attempt))

    assert ends(server, look, attempt=2).word == "completed"
    assert seen == ["engine_app", "a", "r", 2]
    assert current_run() is None


@pytest.mark.parametrize(
    ("error", "word", "delay", "reason"),
    [
        (ValueError("no"), "retry", 2, "error"),
        (PermissionError("no"), "failed", 0, "error"),
        (JobTimeout("late"), "retry", 2, "timeout"),
        (Discard("closed"), "failed", 0, "discarded"),
        (Snooze(7.5), "snooze", 7.5, "snoozed"),
        (Snooze(0), "snooze", 1, "snoozed"),
        (Snooze(-1), "snooze", 1, "snoozed"),
        (RateLimited(3), "limited", 3, "rate limited"),
        (JobCanceled("enough"), "canceled", 0, "enough"),
        (SystemExit(1), "failed", 0, "error"),
        (KeyboardInterrupt(), "failed", 0, "error"),
        (BaseException("odd"), "failed", 0, "error"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_each_way_out_of_a_job_has_its_end(
    server: JobServer, error: BaseException, word: str, delay: float, reason: str
) -> None:
    ending = ends(server, raises(error))
    assert (ending.word, ending.delay, ending.reason) == (word, delay, reason)


def test_the_last_attempt_fails_for_good(server: JobServer) -> None:
    ending = ends(server, raises(ValueError("no")), attempt=3)
    assert (ending.word, ending.error_type, ending.error_message) == ("failed", "ValueError", "no")
    assert ends(server, raises(Snooze(1)), attempt=3).word == "snooze"


def test_a_traceback_begins_in_the_job_and_is_capped(server: JobServer) -> None:
    text = traceback_of(ends(server, raises(ValueError("no"))))
    assert "jobserver" not in text
    assert text.rstrip().endswith("ValueError: no")
    long = ends(server, raises(ValueError("x" * 10**6 + "end")))
    assert len(traceback_of(long)) == TRACEBACK_BYTES
    assert traceback_of(long).rstrip().endswith("end")
    assert long.error_message == "x" * MESSAGE_CHARS


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ValueError(), "ValueError"),
        (Unusual(), "(its text cannot be had)"),
        (FileNotFoundError(2, "No such file", os.fsdecode(b"\xff")), "'\\udcff'"),
        (ValueError("\ud800"), "\ud800"),
        (ExceptionGroup("two", [ValueError("one"), Unusual()]), "two (2 sub-exceptions)"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_an_error_without_a_proper_text_is_still_an_end(
    server: JobServer, error: Exception, message: str
) -> None:
    ending = ends(server, raises(error))
    assert ending.word == "retry"
    assert ending.error_message.endswith(message)
    assert type(error).__name__ in traceback_of(ending)


@pytest.mark.parametrize("result", [object(), 2**70, {"x": b"bytes"}, {1, "a"}])
def test_a_result_that_json_cannot_say_is_an_error(server: JobServer, result: object) -> None:
    ending = ends(server, lambda: result)
    assert (ending.word, ending.error_type) == ("retry", "TypeError")


def test_a_result_too_large_for_one_command_is_an_error(server: JobServer) -> None:
    ending = ends(server, lambda: "x" * (1024 * 1024))
    assert (ending.word, ending.error_type) == ("retry", "ResultTooLarge")


@pytest.mark.parametrize("seconds", [float("inf"), float("nan"), 1e12, 1e308])
def test_nobody_snoozes_for_ever(server: JobServer, seconds: float) -> None:
    def snooze() -> None:
        raise Snooze(seconds)

    ending = ends(server, snooze)
    assert (ending.word, ending.error_type) == ("retry", "ValueError")


def test_a_calls_own_backoff_wins(server: JobServer) -> None:
    own = dumps(asdict(Backoff(delays=(9, 90)))).decode()
    assert ends(server, raises(ValueError()), backoff=own).delay == 9
    assert ends(server, raises(ValueError()), backoff=own, attempt=2).delay == 90


@pytest.mark.parametrize("own", ['{"delay":-1}', '{"of_the_future":1}', "[1]", "nonsense"])
def test_a_backoff_of_another_release_is_the_types(server: JobServer, own: str) -> None:
    assert ends(server, raises(ValueError()), backoff=own).delay == 2


@pytest.mark.parametrize(
    "claimed",
    [
        claim_of("engine_jobs.of_the_future", {}),
        claim_of("os.getcwd", {}),
        claim_of("engine_jobs.add", {"a": 1, "c": "a field of the future"}),
        claim_of("engine_jobs.add", {}),
        claim_of("engine_jobs.add", [1, 2]),
        claim_of("engine_jobs.fail", {"of_the_future": 1}),
        claim_of("x", {}, data=b'["os.getcwd",null,[],{}]'),
        claim_of("engine_jobs.add", {}, data=b'["os.getcwd",null,["engine_jobs.add",{"a":1}],{}]'),
    ],
    ids=lambda claimed: claimed.data.decode(),
)
def test_what_another_release_may_know_is_put_off(
    server: JobServer, claimed: Claim, caplog: pytest.LogCaptureFixture
) -> None:
    ending = perform(server, claimed)
    assert (ending.word, ending.delay) == ("snooze", 30)
    assert ending.reason
    assert [record.levelname for record in caplog.records] == ["ERROR"]


@pytest.mark.parametrize(
    "data", [b"", b"\x80\x04\x95", b"x\x9cdamaged", b"{}", b"[1]", b"1", b'["f"', b"\xff"]
)
def test_what_no_release_can_read_fails_with_its_reason(server: JobServer, data: bytes) -> None:
    ending = perform(server, claim_of("engine_jobs.add", {}, data=data))
    assert (ending.word, ending.reason) == ("failed", "unreadable")
    assert ending.error_type == "Unreadable"
    assert ending.error_message


def test_data_that_rq_compressed_is_read(server: JobServer) -> None:
    data = zlib.compress(envelope("jobserver.runner.run", "engine_jobs.add", b'{"a":4}').encode())
    ending = perform(server, claim_of("engine_jobs.add", {}, data=data))
    assert base64.b64decode(ending.value) == b"4"


def test_data_that_unpacks_beyond_any_payload_is_unreadable(server: JobServer) -> None:
    bomb = zlib.compress(b" " * 50 * 1024 * 1024)
    ending = perform(server, claim_of("engine_jobs.add", {}, data=bomb))
    assert (ending.word, ending.error_type) == ("failed", "Unreadable")
    assert "unpacked" in ending.error_message
    largest = envelope("jobserver.runner.run", "engine_jobs.named", b" " * MAX_BYTES + b"{}")
    assert call_of(zlib.compress(largest.encode()))[1] == ["engine_jobs.named", {}]


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_a_result_with_a_number_that_json_cannot_say_fails(
    server: JobServer, number: float
) -> None:
    ending = ends(server, lambda: {"rates": [1, number], "none": None})
    assert ending.error_type == "NotFinite"
    assert "#/rates/1" in ending.error_message


def test_a_schema_that_fails_is_the_jobs_failure(server: JobServer) -> None:
    def it(a: int) -> None: ...

    server.registry.types["test.it"] = job(queue="in-threads", name="test.it", schema=Broken)(it)
    ending = perform(server, claim_of("test.it", {"a": 1}))
    assert (ending.word, ending.error_type) == ("retry", "LookupError")


def test_a_stock_worker_runs_only_what_is_registered(
    server: JobServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    app: Flask = server.app
    with app.app_context():
        assert run("engine_jobs.add", {"a": 1, "b": 2}) == 3
        with pytest.raises(errors.UnknownJobType):
            run("os.getcwd", {})
        with pytest.raises(errors.PayloadInvalid):
            run("engine_jobs.add", {"a": 1, "x": 2})


def test_what_travels_of_an_end_is_utf8(server: JobServer) -> None:
    ending = ends(server, raises(ValueError("\udcff")))
    assert orjson.loads(dumps({"text": traceback_of(ending)}))
