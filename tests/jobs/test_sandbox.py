"""The sandbox speaks as its vendors do, and fails as it is told."""

from __future__ import annotations

from datetime import datetime
from itertools import pairwise
from typing import Any

import httpx
import pytest

from tests.sandbox import Sandbox

FIELDS = {
    *("id", "username", "email", "firstName", "lastName", "title", "department", "active"),
    "updatedAt",
}


def test_pages_hold_every_user_once_in_order_and_again_the_same(sandbox: Sandbox) -> None:
    sandbox.steer("directory", users=1234, removed=["user-7"])
    users = walk(sandbox, "/directory/users", limit=500)
    assert [user["id"] for user in users] == [f"user-{n}" for n in range(1, 1235) if n != 7]
    assert all(set(user) == FIELDS and user["active"] for user in users)
    assert len({user["username"] for user in users}) == len(users)
    assert all(datetime.fromisoformat(user["updatedAt"]).tzinfo for user in users)
    assert len(sandbox.requests()) == 3
    assert walk(sandbox, "/directory/users", limit=137) == users
    sandbox.steer("directory", users=1234, seed=2)
    assert walk(sandbox, "/directory/users", limit=500)[0] != users[0]


def test_users_are_found_by_id_and_by_up_to_a_hundred_ids(sandbox: Sandbox) -> None:
    first = sandbox.client.get("/directory/users/user-1").json()
    answer = sandbox.client.get("/directory/users", params={"ids": "user-1,user-151,user-01,x"})
    assert answer.json() == {"users": [first], "nextCursor": None}
    ids = ",".join(f"user-{n}" for n in range(1, 102))
    assert sandbox.client.get("/directory/users", params={"ids": ids}).status_code == 400
    assert sandbox.client.get("/directory/users/user-151").json() == {
        "error": {"code": "not_found", "message": "There is no user 'user-151'"}
    }


def test_projects_and_issues_are_paged_the_same_way(sandbox: Sandbox) -> None:
    sandbox.steer("tracker", projects=120, issues=350, changed={"issue-9": {"state": "closed"}})
    projects, issues = walk(sandbox, "/projects", limit=50), walk(sandbox, "/issues", limit=500)
    assert (len(projects), len(issues)) == (120, 350)
    assert {issue["projectId"] for issue in issues} <= {project["id"] for project in projects}
    keys = {project["id"]: project["key"] for project in projects}
    assert all(one["key"] == f"{keys[one['projectId']]}-{one['id'][6:]}" for one in issues)
    assert issues[8]["state"] == "closed"


@pytest.mark.parametrize("query", ["limit=0", "limit=501", "limit=x", "cursor=x", "cursor=%C3%BC"])
def test_odd_pages_are_refused(sandbox: Sandbox, query: str) -> None:
    assert sandbox.client.get(f"/directory/users?{query}").status_code == 400


@pytest.mark.parametrize("token", [None, "Bearer wrong", "Basic sandbox", "Bearer"])
def test_who_has_no_token_is_refused(sandbox: Sandbox, token: str | None) -> None:
    headers = {"Authorization": token} if token else {}
    for path in ("/directory/users", "/directory/users/user-1", "/projects", "/issues"):
        answer = httpx.get(f"{sandbox.url}{path}", headers=headers)
        assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, "Bearer")


def test_what_has_not_changed_is_not_sent_again(sandbox: Sandbox) -> None:
    page = sandbox.client.get("/directory/users?limit=100")
    asked = {"If-None-Match": page.headers["ETag"]}
    again = sandbox.client.get("/directory/users?limit=100", headers=asked)
    assert (again.status_code, again.content) == (304, b"")
    changed = {"user-100": {"title": "Director of directories"}}
    sandbox.steer("directory", changed=changed, deactivated=["user-3"])
    again = sandbox.client.get("/directory/users?limit=100", headers=asked)
    assert again.status_code == 200
    users = again.json()["users"]
    assert users[99]["title"] == "Director of directories"
    assert [user["id"] for user in users if not user["active"]] == ["user-3"]
    assert sandbox.requests()[0]["if_none_match"] == page.headers["ETag"]


def test_users_without_sense_are_as_many_as_told(sandbox: Sandbox) -> None:
    sandbox.steer("directory", malformed=["user-1", "user-2", "user-3", "user-4"])
    users = sandbox.client.get("/directory/users?limit=5").json()["users"]
    assert users[0]["username"] is None
    assert "@" not in users[1]["email"]
    assert users[2]["active"] not in (True, False)
    assert users[3]["updatedAt"] == "yesterday"
    assert set(users[4]) == FIELDS


def test_errors_come_in_the_middle_and_end(sandbox: Sandbox) -> None:
    sandbox.steer("directory", faults={"after": 2, "errors": 3, "status": 503})
    answers = [sandbox.client.get("/directory/users").status_code for _ in range(6)]
    assert answers == [200, 200, 503, 503, 503, 200]
    assert [one["status"] for one in sandbox.requests()] == answers


def test_a_rate_lets_so_many_in_and_says_when_to_come_again(sandbox: Sandbox) -> None:
    sandbox.steer("directory", faults={"rate": {"requests": 2, "seconds": 30}})
    answers = [sandbox.client.get("/directory/users/user-1") for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert 25 <= int(answers[2].headers["Retry-After"]) <= 30
    assert sandbox.client.get("/projects").status_code == 200  # the other vendor's door


def test_the_time_taken_is_told_with_the_delay(sandbox: Sandbox) -> None:
    sandbox.steer("directory", faults={"delay": 0.1})
    timing = sandbox.client.get("/directory/users/user-1").headers["Server-Timing"]
    assert float(timing.removeprefix("app;dur=")) >= 100


def test_a_behaviour_that_is_none_changes_nothing(sandbox: Sandbox) -> None:
    sandbox.steer("directory", users=3)
    for wrong in ({"users": -1}, {"userz": 1}, {"faults": {"rate": {"requests": 1}}}, []):
        assert sandbox.client.post("/_sandbox/directory", json=wrong).status_code == 422
    assert sandbox.client.post("/_sandbox/nobody", json={}).status_code == 404
    assert len(walk(sandbox, "/directory/users", limit=500)) == 3


def walk(sandbox: Sandbox, path: str, *, limit: int) -> list[dict[str, Any]]:
    """Return all records, page by page."""
    records: list[dict[str, Any]] = []
    cursors: list[str | None] = [""]
    while cursors[-1] is not None:
        query = {"limit": limit, "cursor": cursors[-1]}
        answer = sandbox.client.get(path, params=query)
        assert answer.status_code == 200, answer.text
        cursors.append(answer.json().pop("nextCursor"))
        records += answer.json()[path.rpartition("/")[2]]
    assert all(before != after for before, after in pairwise(cursors))
    return records
