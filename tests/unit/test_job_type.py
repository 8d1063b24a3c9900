"""Job types: declared by one decorator, without effect; mistakes show at the declaration."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
from marshmallow import Schema, fields

from jobserver import JobType, Policy, Queue, RateLimited, errors, fixed, job
from tests import engine_jobs


class Follow(Schema):
    follow_id = fields.Integer(required=True)
    since = fields.AwareDateTime()
    batch = fields.Integer(load_default=100)
    shop = fields.String(data_key="shopName")


def declare(**options: Any) -> JobType:
    def sync(follow_id: int, **others: object) -> int:
        """Sync a follow."""
        return follow_id

    return job(**{"queue": "sync", "schema": Follow, **options})(sync)


def pointers(refused: pytest.ExceptionInfo[errors.PayloadInvalid]) -> set[str]:
    return {error["pointer"] for error in refused.value.errors}


def test_a_job_type_is_still_its_function() -> None:
    sync = declare()
    assert sync(7) == 7
    assert sync(follow_id=7) == 7
    assert list(inspect.signature(sync).parameters) == ["follow_id", "others"]
    assert inspect.getdoc(sync) == "Sync a follow."


def test_its_name_is_system_and_function() -> None:
    assert engine_jobs.add.name == "engine_jobs.add"

    def sync() -> None: ...

    sync.__module__ = "jobs.follows.jobs"
    assert job(queue="sync")(sync).name == "follows.sync"
    sync.__module__ = "jobs"
    assert job(queue="sync")(sync).name == "jobs.sync"
    assert job(queue="sync", name="follows.sync_all")(sync).name == "follows.sync_all"


@pytest.mark.parametrize("name", ["<lambda>", 'a"b', "a b", ".a", "a..b", "a/b", "a\n", "ä"])
def test_a_name_that_cannot_travel_is_refused(name: str) -> None:
    with pytest.raises(errors.DeclarationInvalid, match="name"):
        declare(name=name)


def test_a_queue_may_be_named_or_declared() -> None:
    assert declare(queue="sync").queue == Queue("sync")
    queue = Queue("sync", executor="thread")
    assert declare(queue=queue).queue is queue
    with pytest.raises(errors.DeclarationInvalid, match="Sync"):
        declare(queue="Sync")


def test_without_a_policy_the_queues_attempts_backoff_and_timeout_hold() -> None:
    queue = Queue("sync", attempts=7, backoff=fixed(5), timeout=9)
    assert declare(queue=queue).policy == Policy(attempts=7, backoff=fixed(5), timeout=9)
    assert declare().policy == Policy()
    stated = Policy(attempts=1)
    assert declare(queue=Queue("sync", attempts=7), policy=stated).policy is stated


def test_an_async_function_is_refused() -> None:
    async def sync() -> None: ...

    with pytest.raises(errors.DeclarationInvalid, match="async"):
        job(queue="sync")(sync)


@pytest.mark.parametrize("key", ["follow-{folow_id}", "{}", "{0}", "{follow_id", "{shopName}"])
def test_a_key_that_the_schema_cannot_fill_is_refused(key: str) -> None:
    with pytest.raises(errors.DeclarationInvalid, match="key"):
        declare(key=key)


@pytest.mark.parametrize("key", ["{b}", "{0}", "{}", "{a"])
def test_a_key_that_the_function_cannot_fill_is_refused(key: str) -> None:
    def plain(a: int) -> None: ...

    with pytest.raises(errors.DeclarationInvalid, match="key"):
        job(queue="sync", key=key)(plain)
    assert job(queue="sync", key="plain-{a}")(plain).prepare({"a": 1})[1] == "plain-1"


@pytest.mark.parametrize(
    ("key", "payload", "expected"),
    [
        ("follow-{follow_id}", {"follow_id": 7}, "follow-7"),
        ("follow-{follow_id}", {"follow_id": "07"}, "follow-7"),
        ("follow-{follow_id}", {"follow_id": 7.0}, "follow-7"),
        ("all", {"follow_id": 7}, "all"),
        ("{shop}:{follow_id:04d}", {"follow_id": 7, "shopName": "a b"}, "a b:0007"),
        ("batch-{batch}", {"follow_id": 7}, "batch-100"),
        ("{{{follow_id}}}", {"follow_id": 7}, "{7}"),
        (None, {"follow_id": 7}, None),
    ],
)
def test_the_key_says_what_the_payload_means(
    key: str | None, payload: dict[str, Any], expected: str | None
) -> None:
    assert declare(key=key).prepare(payload)[1] == expected


def test_the_rate_key_is_a_template_too() -> None:
    declared = declare(limit_key="shop-{follow_id}")
    assert declared.prepare({"follow_id": "07"})[1:] == (None, "shop-7")
    with pytest.raises(errors.DeclarationInvalid, match=r"limit_key 'x-\{shop_name\}' names"):
        declare(limit_key="x-{shop_name}")


@pytest.mark.parametrize("key", ["", 7])
def test_a_rate_key_that_is_no_text_is_refused(key: Any) -> None:
    with pytest.raises(ValueError, match="key="):
        RateLimited(1, key=key)


def test_a_key_without_its_field_is_refused_by_its_name() -> None:
    with pytest.raises(errors.PayloadInvalid) as refused:
        declare(key="{shop}").prepare({"follow_id": 7})
    assert pointers(refused) == {"#/shop"}


def test_what_is_checked_at_enqueue_is_checked_at_the_run() -> None:
    sync = declare()
    for values in ({}, {"follow_id": "x"}, {"follow_id": 1, "x": 1}):
        for check in (sync.encode, sync.decode):
            with pytest.raises(errors.PayloadInvalid):
                check(values)
    assert sync.decode({"follow_id": "7"}) == {"follow_id": 7, "batch": 100}


def plain(a: int, *, b: int = 2) -> None: ...
def generous(a: int, **others: int) -> None: ...
def empty() -> None: ...


@pytest.mark.parametrize(
    ("function", "payload", "wrong"),
    [
        (plain, {"a": 1}, set()),
        (plain, {"a": 1, "b": 2}, set()),
        (plain, {}, {"#/a"}),
        (plain, {"a": 1, "c": 2}, {"#/c"}),
        (plain, {"b": 1, "c": 2}, {"#/a", "#/c"}),
        (generous, {"a": 1, "x": 2}, set()),
        (generous, {"x": 2}, {"#/a"}),
        (empty, {}, set()),
        (empty, {"a": 1}, {"#/a"}),
    ],
)
def test_without_a_schema_the_functions_parameters_are_it(
    function: Callable[..., Any], payload: dict[str, Any], wrong: set[str]
) -> None:
    declared = job(queue="sync")(function)
    if not wrong:
        assert declared.decode(payload) == payload
        return
    with pytest.raises(errors.PayloadInvalid) as refused:
        declared.encode(payload)
    assert pointers(refused) == wrong
