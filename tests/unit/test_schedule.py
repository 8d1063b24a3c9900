"""Declarations of recurring jobs: a mistake ends the start, with one line that names the field."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal

import orjson
import pytest
from marshmallow import Schema, fields

from jobserver import Cron, Every, job
from jobserver.broker.entry import Entry
from jobserver.errors import DeclarationInvalid


class Amount(Schema):
    amount = fields.Decimal(required=True)


@job(queue="clock", schema=Amount)
def charge(amount: Decimal) -> None:
    """Charge an amount."""


PAYLOAD = {"amount": Decimal("1.50")}


@pytest.mark.parametrize(
    ("declare", "told"),
    [
        (lambda: Every(id="a", seconds=0.5, job=charge, payload=PAYLOAD), "seconds: Must be"),
        (lambda: Every(id="a b", seconds=5, job=charge, payload=PAYLOAD), "id: Use letters"),
        (lambda: Every(id="a", seconds=5, job=charge), "#/amount: Missing data"),
        (
            lambda: Cron(id="a", cron="0 24 * * *", job=charge, payload=PAYLOAD),
            "cron: Not understood: the hour '24' must be 0 to 23",
        ),
        (
            lambda: Cron(id="a", cron="@daily", timezone="Berlin", job=charge, payload=PAYLOAD),
            "timezone: 'Berlin' is no time zone",
        ),
        (
            lambda: Every(
                id="a", seconds=5, job=charge, payload=PAYLOAD, setting="poll_interval"
            ).entry(Poll()),
            "seconds: Must be",
        ),
    ],
)
def test_a_mistake_is_named_by_schedule_and_field(declare: Callable[[], object], told: str) -> None:
    with pytest.raises(DeclarationInvalid, match="schedule 'a") as refused:
        declare()
    assert told in str(refused.value)


class Poll:
    """A configuration that sets an interval nobody can keep."""

    poll_interval = 0.1


def test_what_is_declared_is_kept_whole() -> None:
    start = datetime(2030, 1, 1, tzinfo=UTC)
    declared = Cron(
        **{"id": "daily", "cron": "30 2 * * *", "timezone": "Europe/Berlin", "job": charge},
        **{"payload": PAYLOAD, "jitter": 5, "start": start, "count": 7, "misfire": "all"},
        **{"limit": 3, "overlap": "queue_one", "priority": "high", "paused": True},
    )
    entry = declared.entry()
    kept = Entry.from_json(entry.to_json())
    assert kept == Entry.from_json(kept.to_json())
    assert kept.payload == {"amount": "1.50"}
    assert {**orjson.loads(kept.to_json()), "payload": 0} == {
        **orjson.loads(entry.to_json()),
        "payload": 0,
    }
    assert (kept.start, kept.cron, kept.misfire, kept.overlap) == (
        start,
        "30 2 * * *",
        "all",
        "queue_one",
    )
