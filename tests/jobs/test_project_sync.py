"""Project sync and issue sync, each of one file, against the sandbox, on both databases."""

from __future__ import annotations

from typing import Any

import pytest
from flask import Flask
from sqlalchemy import select

from jobs.issues import jobs as issues
from jobs.issues.jobs import ISSUE_SYNC_SCHEDULE, Issue
from jobs.projects import jobs as projects
from jobs.projects.jobs import PROJECT_SYNC_SCHEDULE, Project
from jobs.records import db
from jobserver import JobType, current, steps
from jobserver.testing import work
from tests.sandbox import Sandbox


def rows(model: Any) -> dict[str, Any]:
    """All rows by the directory's id."""
    db.session.rollback()
    return {row.directory_id: row for row in db.session.scalars(select(model))}


@pytest.mark.parametrize(
    ("sync", "model", "name", "count", "field"),
    [
        (projects.sync, Project, "project", 230, "owner"),
        (issues.sync, Issue, "issue", 230, "assignee"),
    ],
)
def test_its_rows_land_in_sql_whatever_happens_in_the_middle(
    app: Flask, sandbox: Sandbox, sync: JobType, model: Any, name: str, count: int, field: str
) -> None:
    size = {f"{name}s": count}
    sandbox.steer("tracker", **size, faults={"after": 2, "errors": 1})
    current.server().enqueue(sync, backoff=steps(0))
    (done,) = work()
    assert (done.status, done.attempt) == ("completed", 2)
    assert done.result == {"processed": count, "errors": 0}
    assert done.progress == 100
    assert [one["status"] for one in sandbox.requests()] == [200, 200, 500, 200]
    found = rows(model)
    assert len(found) == count
    assert found[f"{name}-{count}"].changed_at is not None

    sandbox.steer(
        "tracker",
        **size,
        removed=[f"{name}-3"],
        changed={f"{name}-4": {field: "user-9"}, f"{name}-5": {"key": None}},
    )
    sync.enqueue()
    (done,) = work()
    assert done.result == {"processed": count - 1, "errors": 1}
    found = rows(model)
    assert getattr(found[f"{name}-4"], field) == "user-9"
    assert len(found) == count, "none is taken for gone while one makes no sense"

    sandbox.steer("tracker", **size, removed=[f"{name}-3"])
    sync.enqueue()
    work()
    assert set(rows(model)) == set(found) - {f"{name}-3"}


def test_each_has_a_schedule(app: Flask) -> None:
    entries = current.server().registry.entries
    for entry in (PROJECT_SYNC_SCHEDULE, ISSUE_SYNC_SCHEDULE):
        assert entries[entry.id] is entry
