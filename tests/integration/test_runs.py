"""The record of runs is searched by everything that runs have, on SQLite and PostgreSQL."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from itertools import combinations
from typing import Any

import pytest
from sqlalchemy import Engine, insert

from jobserver.ids import new_id
from jobserver.ledger import dead_letters, models, runs
from jobserver.ledger.runs import Sought, State

START = datetime(2026, 11, 22, 9, tzinfo=UTC)
SEARCHED = ("job", "key", "trace", "fingerprint", "owner", "organization", "state", "type", "queue")


def row(run: str | None = None, **values: Any) -> dict[str, Any]:
    """Return a run as the recorder writes it."""
    defaults: dict[str, Any] = {
        **{column.name: None for column in models.runs.columns},
        **{"run": run or new_id(), "job": "letter-ada", "type": "mail.send", "queue": "mail"},
        **{"priority": "normal", "state": "completed", "attempt": 1, "attempts": 3},
        **{"enqueued_at": START, "started_at": START, "ended_at": START},
    }
    return {**defaults, **values}


def write(engine: Engine, *rows: dict[str, Any], table: Any = models.runs) -> None:
    with engine.begin() as connection:
        connection.execute(insert(table), list(rows))


def some_runs(count: int) -> list[dict[str, Any]]:
    """Return runs of every kind, oldest first, one each minute."""
    chance = random.Random(3)  # noqa: S311
    made = []
    for number in range(count):
        moment = START + timedelta(minutes=number)
        state: State = chance.choice(runs.STATES)
        failed = state == "failed"
        # An id is made where the run is asked for, which may be long before Redis has it.
        asked = moment - timedelta(minutes=chance.choice((0, 0, 0, 50)))
        made.append(
            row(
                f"{int(asked.timestamp() * 1000):011x}{number:012x}",
                job=f"job-{chance.randrange(20)}",
                type=f"mail.{chance.choice('ab')}",
                queue=chance.choice(("mail", "post")),
                key=chance.choice((None, "k1", "k2")),
                owner=chance.choice((None, "7", "8")),
                organization=chance.choice((None, "o")),
                trace=chance.choice((None, "t")),
                state=state,
                fingerprint=chance.choice("fg") if failed else None,
                error_message=chance.choice(("No 50% off", "no 500 off")) if failed else None,
                settled_at=moment if failed and chance.random() < 0.3 else None,
                enqueued_at=moment,
                ended_at=moment,
            )
        )
    return sorted(made, key=lambda one: str(one["run"]))


def naive(rows: Sequence[dict[str, Any]], sought: Sought) -> list[str]:
    """Return the ids of the runs that are sought, the newest first."""

    def matches(one: dict[str, Any]) -> bool:
        equal = all(getattr(sought, name) in (None, one[name]) for name in SEARCHED)
        since, before = sought.enqueued_from, sought.enqueued_before
        dead = one["state"] == "failed" and one["settled_at"] is None
        return (
            equal
            and (
                sought.error is None or sought.error.lower() in (one["error_message"] or "").lower()
            )
            and (since is None or one["enqueued_at"] >= since)
            and (before is None or one["enqueued_at"] < before)
            and (not sought.is_dead or dead)
        )

    return [one["run"] for one in reversed(rows) if matches(one)]


def found(engine: Engine, sought: Sought, *, limit: int) -> tuple[list[str], int]:
    """Return the ids on all pages, and how many pages there were."""
    ids: list[str] = []
    before, pages = None, 0
    while True:
        page, before = runs.find(engine, sought, before=before, limit=limit)
        ids += [one.run for one in page]
        pages += 1
        assert len(page) <= limit
        if before is None:
            return ids, pages


def test_every_search_finds_what_it_should_page_by_page(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = some_runs(240)
    write(engine, *made)
    asked: dict[str, Any] = {
        **{"job": "job-3", "key": "k1", "trace": "t", "fingerprint": "f", "owner": "7"},
        **{"organization": "o", "state": "failed", "type": "mail.a", "queue": "post"},
        **{"error": "50% OFF", "is_dead": True},
        "enqueued_from": START + timedelta(minutes=60),
        "enqueued_before": START + timedelta(minutes=180),
    }
    searches = [Sought()] + [Sought(state=state) for state in runs.STATES]
    pairs = list(combinations(asked, 2))[::2]
    for names in [*((name,) for name in asked), *pairs]:
        searches.append(Sought(**{name: asked[name] for name in names}))
    full = 0
    for sought in searches:
        if sought.error is not None and sought.state is None:
            sought = replace(sought, state="failed")
        expected = naive(made, sought)
        assert found(engine, sought, limit=200)[0] == expected, sought
        full += bool(expected)
    assert full > 0.8 * len(searches)
    monkeypatch.setattr(runs, "LOOKED_AT", 25)
    for sought in searches[::6]:
        expected = naive(made, sought)
        ids, pages = found(engine, sought, limit=9)
        assert ids == expected, sought
        assert len(expected) // 9 <= pages <= len(expected) // 9 + 240 // 25 + 2


def test_a_search_goes_on_behind_its_place_whatever_came_meanwhile(engine: Engine) -> None:
    made = some_runs(20)
    write(engine, *made[:15])
    first, place = runs.find(engine, Sought(), limit=10)
    write(engine, *made[15:])
    second, end = runs.find(engine, Sought(), before=place, limit=10)
    assert [one.run for one in (*first, *second)] == [one["run"] for one in reversed(made[:15])]
    assert end is None


def test_a_run_is_read_as_it_was_written(engine: Engine) -> None:
    one = row(
        key="letter/ada",
        result='{"sent":"ada"}',
        payload='{"to":"ada"}',
        wait_ms=12,
        run_ms=130,
        worker="w",
        host="h",
    )
    write(engine, one, row(job="other", payload=None, result="null"))
    read = runs.get(engine, one["run"])
    assert read is not None
    held = {name: value for name, value in asdict(read).items() if name in one}
    assert held == {**one, "result": {"sent": "ada"}, "payload": {"to": "ada"}}
    assert read.has_result and read.has_payload
    assert runs.get(engine, "none") is None
    other = runs.latest(engine, "other")
    assert other is not None
    assert (other.has_payload, other.has_result, other.result) == (False, True, None)
    assert runs.latest(engine, "nobody") is None


def test_the_latest_run_of_a_job_is_found(engine: Engine) -> None:
    ids = [new_id() for _ in range(3)]
    ids.sort()
    write(
        engine,
        *(
            row(run, state=state)
            for run, state in zip(ids, ("failed", "active", "completed"), strict=True)
        ),
    )
    read = runs.latest(engine, "letter-ada")
    assert read is not None and (read.run, read.state) == (ids[-1], "completed")


def test_a_completed_attempt_is_derived_from_its_run(engine: Engine) -> None:
    failure = {
        **{column.name: None for column in models.attempts.columns},
        **{"number": 1, "ended_at": START, "outcome": "retried", "error_type": "ValueError"},
        "traceback": "Traceback …",
    }
    once, twice, lost = (
        row(worker="w1"),
        row(attempt=2, worker="w2"),
        row(state="failed", attempt=1),
    )
    write(engine, once, twice, lost)
    write(
        engine,
        failure | {"run": twice["run"]},
        failure | {"run": lost["run"], "outcome": "lost"},
        table=models.attempts,
    )

    def told(one: dict[str, Any]) -> list[tuple[int, str, str | None]]:
        run = runs.get(engine, one["run"])
        assert run is not None
        return [(a.number, a.outcome, a.worker) for a in runs.attempts(engine, run)]

    assert told(once) == [(1, "completed", "w1")]
    assert told(twice) == [(1, "retried", None), (2, "completed", "w2")]
    assert told(lost) == [(1, "lost", None)]


def test_dead_letters_are_grouped_by_fingerprint_the_newest_first(engine: Engine) -> None:
    made = some_runs(200)
    write(engine, *made)
    dead = [one for one in made if one["state"] == "failed" and one["settled_at"] is None]
    by_print: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for one in dead:
        by_print[one["fingerprint"]].append(one)
    expected = sorted(by_print.values(), key=lambda group: str(group[-1]["run"]), reverse=True)
    groups, end = dead_letters.groups(engine, Sought())
    assert end is None
    assert [
        (group.count, group.first_seen, group.last_seen, group.example.run) for group in groups
    ] == [
        (
            len(group),
            min(one["ended_at"] for one in group),
            max(one["ended_at"] for one in group),
            group[-1]["run"],
        )
        for group in expected
    ]
    assert len(groups) == 2
    first, place = dead_letters.groups(engine, Sought(), limit=1)
    second, end = dead_letters.groups(engine, Sought(), before=place, limit=1)
    assert [*first, *second] == groups
    assert end is None
    (of_queue, *_), _ = dead_letters.groups(engine, Sought(queue="post", type="mail.a"))
    mine = [
        one
        for one in by_print[of_queue.fingerprint]
        if (one["queue"], one["type"]) == ("post", "mail.a")
    ]
    assert of_queue.count == len(mine)


def test_a_settled_run_is_a_dead_letter_no_more(engine: Engine) -> None:
    failed, other = row(state="failed", fingerprint="f"), row(state="failed", fingerprint="f")
    done = row()
    write(engine, failed, other, done)
    ids = [failed["run"], done["run"], "none"]
    assert dead_letters.settle(engine, ids) == 1
    assert dead_letters.settle(engine, ids) == 0
    assert [one.run for one in runs.find(engine, Sought(is_dead=True))[0]] == [other["run"]]
    assert dead_letters.groups(engine, Sought())[0][0].count == 1
