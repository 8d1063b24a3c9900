"""`/api/v1/queues/<queue>/series`: what a chart of a queue is drawn from."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from flask import Flask
from flask.testing import FlaskClient

from jobserver.http.series_v1 import SeriesSchema
from jobserver.ledger import series
from jobserver.ledger.series import End
from tests.integration.web.shop import db

PATH = "/engine/api/v1/queues/MAIL/series"


def test_a_series_has_every_minute_and_zeros_where_nothing_ended(
    admin: FlaskClient, shop: Flask
) -> None:
    ended = datetime.now(UTC) - timedelta(minutes=2)
    at = int(ended.timestamp() * 1000)
    completed = End("mail", "completed", at, 30, 4000)
    with db.engine.begin() as connection:
        series.add(connection, [completed, completed, completed._replace(state="failed")])
    found = admin.get(f"{PATH}?minutes=5").get_json()
    assert SeriesSchema().validate(found) == {}
    assert found["queue"] == "mail"
    assert len(found["items"]) == 5
    times = [datetime.fromisoformat(item["at"]) for item in found["items"]]
    assert {later - earlier for earlier, later in pairwise(times)} == {timedelta(minutes=1)}
    (busy,) = (item for item in found["items"] if item["completed"])
    assert datetime.fromisoformat(busy["at"]) == ended.replace(second=0, microsecond=0)
    assert (busy["completed"], busy["failed"]) == (2, 1)
    assert 0.02 <= busy["wait"]["p50"] <= busy["wait"]["p95"] <= 0.05
    assert 2 <= busy["run"]["p50"] <= busy["run"]["p95"] <= 5
    quiet = [item for item in found["items"] if item is not busy]
    assert {(item["completed"], item["failed"]) for item in quiet} == {(0, 0)}
    assert quiet[0]["run"] == {"p50": None, "p95": None}


def test_a_series_is_of_an_hour_and_at_most_of_two_days(admin: FlaskClient) -> None:
    assert len(admin.get(PATH).get_json()["items"]) == 60
    assert len(admin.get(f"{PATH}?minutes=2880").get_json()["items"]) == 2880


@pytest.mark.parametrize("minutes", ["0", "2881", "x"])
def test_other_lengths_are_refused(admin: FlaskClient, minutes: str) -> None:
    assert admin.get(f"{PATH}?minutes={minutes}").status_code == 422


def test_a_series_takes_a_viewer_and_a_known_queue(
    visitor: FlaskClient, ada: FlaskClient, admin: FlaskClient
) -> None:
    assert visitor.get(PATH).status_code == 401
    assert ada.get(PATH).status_code == 403
    assert admin.get("/engine/api/v1/queues/none/series").status_code == 404
