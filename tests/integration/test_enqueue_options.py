"""Options of an enqueue that look possible and are not: refused by name, with nothing written."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from redis import Redis

from jobserver import JobServer, errors


@pytest.mark.parametrize(
    ("options", "pointer"),
    [
        ({"delay": 1e12}, "#/delay"),
        ({"delay": 1e308}, "#/delay"),
        ({"delay": "5"}, "#/delay"),
        ({"at": datetime.max.replace(tzinfo=UTC)}, "#/at"),
        ({"at": "2030-01-01"}, "#/at"),
        ({"attempts": 10**30}, "#/attempts"),
        ({"timeout": 10**30}, "#/timeout"),
        ({"key": 7}, "#/key"),
        ({"call": 7}, "#/call"),
        ({"owner": 7}, "#/owner"),
        ({"priority": None}, "#/priority"),
        ({"priority": 1.5}, "#/priority"),
    ],
)
def test_an_option_that_cannot_work_is_refused(
    server: JobServer, redis: Redis, options: dict[str, Any], pointer: str
) -> None:
    with pytest.raises(errors.PayloadInvalid) as refused:
        server.enqueue("engine_jobs.add", {"a": 1}, **options)
    assert [error["pointer"] for error in refused.value.errors] == [pointer]
    assert redis.keys() == []


@pytest.mark.parametrize("option", ["keys", "calls"])
@pytest.mark.parametrize("names", [["one"], ["one", "two", "three"]], ids=len)
def test_a_bulk_has_as_many_keys_and_calls_as_payloads(
    server: JobServer, redis: Redis, option: str, names: list[str]
) -> None:
    options: dict[str, Any] = {option: names}
    with pytest.raises(errors.PayloadInvalid, match=f"#/{option}: "):
        server.enqueue_many("engine_jobs.add", [{"a": 1}, {"a": 2}], **options)
    assert redis.keys() == []
