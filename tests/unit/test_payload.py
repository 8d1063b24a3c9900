"""Payloads: what travels as JSON, what is refused before anything is written, and ids of keys."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from marshmallow import Schema, fields, validate

from jobserver import errors
from jobserver.broker.job import envelope, payload_of
from jobserver.payload import MAX_BYTES, decode, dumps, encode, job_id, loads

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


class Line(Schema):
    sku = fields.String(required=True, validate=validate.Length(max=5))


class Order(Schema):
    id = fields.Integer(required=True)
    lines = fields.List(fields.Nested(Line))
    notes = fields.Dict(keys=fields.String(), values=fields.Integer())


class Colour(Enum):
    RED = "red"


@given(st.dictionaries(st.text(), json_values, max_size=5))
def test_json_arrives_as_it_was_sent(payload: dict[str, Any]) -> None:
    data = envelope("jobserver.runner.run", "a.b", encode(payload))
    assert payload_of(data) == ("jobserver.runner.run", payload)
    assert json.loads(data) == ["jobserver.runner.run", None, ["a.b", payload], {}]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (datetime(2024, 5, 1, 12, 0, 0, 250000, tzinfo=UTC), "2024-05-01T12:00:00.250000+00:00"),
        (
            datetime(2024, 5, 1, 12, tzinfo=timezone(timedelta(hours=2))),
            "2024-05-01T12:00:00+02:00",
        ),
        (date(2024, 5, 1), "2024-05-01"),
        (Decimal("19.90"), "19.90"),
        (Decimal("1E+3"), "1E+3"),
        (UUID("12345678123456781234567812345678"), "12345678-1234-5678-1234-567812345678"),
        (Colour.RED, "red"),
        ({3, 1, 2}, [1, 2, 3]),
        ((1, 2), [1, 2]),
        ({1: "a", Colour.RED: "b"}, {"1": "a", "red": "b"}),
    ],
)
def test_values_of_python_have_a_form_in_json(value: object, text: object) -> None:
    assert loads(dumps({"x": [value]})) == {"x": [text]}


@pytest.mark.parametrize(
    "value",
    [object(), b"bytes", 2**64, "\ud800", {1, "a"}, lambda: None, {object(): 1}],
)
def test_what_json_cannot_say_is_refused(value: object) -> None:
    with pytest.raises(errors.PayloadInvalid, match="cannot be written as JSON"):
        encode({"x": value})


@dataclass
class Price:
    value: float


@pytest.mark.parametrize(
    ("payload", "pointer"),
    [
        ({"a": math.nan}, "#/a"),
        ({"a": None, "b": [1.5, {"c/d": (0, -math.inf)}]}, "#/b/1/c~1d/1"),
        ({"a": Price(math.inf)}, "#/a/value"),
    ],
)
def test_a_number_that_json_cannot_say_is_refused_by_its_field(
    payload: dict[str, Any], pointer: str
) -> None:
    with pytest.raises(errors.PayloadInvalid) as refused:
        encode(payload)
    assert [error["pointer"] for error in refused.value.errors] == [pointer]
    assert encode({"a": None, "b": [1.5, {"c": (0, "null")}]})


def test_a_payload_that_holds_itself_is_refused() -> None:
    endless: dict[str, Any] = {}
    endless["x"] = endless
    with pytest.raises(errors.PayloadInvalid):
        encode(endless)


def nested(levels: int) -> dict[str, Any]:
    """Return a payload of so many levels."""
    value: list[Any] = []
    for _ in range(levels - 2):
        value = [value]
    return {"a": value}


def test_what_is_accepted_can_be_held_by_an_answer() -> None:
    accepted = [levels for levels in range(230, 260) if not is_refused(nested(levels))]
    assert accepted == list(range(230, accepted[-1] + 1))
    assert dumps({"items": [{"run": {"payload": nested(accepted[-1])}}]})


def is_refused(payload: dict[str, Any]) -> bool:
    try:
        encode(payload)
    except errors.PayloadInvalid as error:
        return "Recursion" in str(error)
    return False


def test_a_payload_may_have_a_mebibyte_and_not_a_byte_more() -> None:
    shell = len(encode({"x": ""}))
    assert len(encode({"x": "a" * (MAX_BYTES - shell)})) == MAX_BYTES
    with pytest.raises(errors.PayloadTooLarge, match=str(MAX_BYTES + 1)):
        encode({"x": "a" * (MAX_BYTES - shell + 1)})
    with pytest.raises(errors.PayloadTooLarge):
        encode({"x": "ä" * (MAX_BYTES // 2)})


@pytest.mark.parametrize(
    ("payload", "pointers"),
    [
        ({}, {"#/id"}),
        ({"id": "one"}, {"#/id"}),
        ({"id": 1, "ID": 1}, {"#/ID"}),
        ({"id": None}, {"#/id"}),
        ({"id": 1, "lines": [{"sku": "a"}, {"sku": "too long"}]}, {"#/lines/1/sku"}),
        ({"id": 1, "lines": [{"sku": "a", "x": 1}, {}]}, {"#/lines/0/x", "#/lines/1/sku"}),
        ({"id": 1, "notes": {"a/b~c": "no"}}, {"#/notes/a~1b~0c/value"}),
        ({"id": 1, "lines": "no"}, {"#/lines"}),
        ([1], {"#"}),
        ("text", {"#"}),
        (None, {"#"}),
    ],
)
def test_a_wrong_field_is_named_by_its_pointer(payload: Any, pointers: set[str]) -> None:
    with pytest.raises(errors.PayloadInvalid) as refused:
        decode(payload, schema=Order)
    assert {error["pointer"] for error in refused.value.errors} == pointers
    assert all(error["detail"] for error in refused.value.errors)


def test_decoding_leaves_the_payload_alone() -> None:
    payload = {"id": "7", "lines": [{"sku": "a"}]}
    assert decode(payload, schema=Order) == {"id": 7, "lines": [{"sku": "a"}]}
    assert payload == {"id": "7", "lines": [{"sku": "a"}]}


@given(st.from_regex(r"[A-Za-z0-9_-]{1,120}", fullmatch=True))
def test_a_key_that_rq_accepts_is_the_job_id(key: str) -> None:
    assert job_id(key) == key


@pytest.mark.parametrize(
    ("key", "start"),
    [
        ("user:7/sync now", "user-7-sync-now--"),
        ("x" * 121, "x" * 60 + "--"),
        ("schön", "sch-n--"),
        ("+++", "key--"),
        ("a\n", "a--"),
    ],
)
def test_another_key_becomes_a_readable_id(key: str, start: str) -> None:
    assert job_id(key).startswith(start)
    assert len(job_id(key)) == len(start) + 16


@given(st.lists(st.text(min_size=1), unique=True, max_size=20))
def test_two_keys_never_share_an_id(keys: list[str]) -> None:
    # Ids are keys too: what looks like the id of another key must not become it.
    keys = list(dict.fromkeys([*keys, *map(job_id, keys), *map(job_id, map(job_id, keys))]))
    ids = list(map(job_id, keys))
    assert len(set(ids)) == len(keys)
    assert all(
        set(found) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")
        for found in ids
    )
    assert max(map(len, ids), default=0) <= 120


def test_a_key_that_is_no_text_is_refused() -> None:
    with pytest.raises(errors.PayloadInvalid, match="no Unicode"):
        job_id("follow-\ud800")
