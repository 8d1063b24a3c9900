"""An issue tracker: projects and their issues, paged."""

from collections.abc import Mapping
from typing import Any

from flask import Blueprint, Response, request
from marshmallow import fields, validate

from jobs.sandbox.dice import Dice
from jobs.sandbox.door import BehaviourSchema, Door, answer
from jobs.sandbox.paging import page

NAME = "tracker"
USERS = 150  # owners and assignees are the first ones of the directory
SUBJECTS = ("Billing", "Catalogue", "Checkout", "Imports", "Onboarding", "Reports", "Search")
KINDS = ("redesign", "migration", "launch", "clean-up", "integration", "hardening")
ISSUES = (
    *("{} is slow on Mondays", "{} shows the wrong currency", "Explain {} in the manual"),
    *("{} fails for long names", "Let {} remember the last choice", "Test {} on phones"),
)
PROJECT_STATES = ("active", "active", "active", "paused", "archived")
ISSUE_STATES = ("open", "open", "in_progress", "closed", "closed")
PRIORITIES = ("low", "medium", "medium", "high")


class TrackerSchema(BehaviourSchema):
    """The tracker: so many projects and issues, and other fields for some, by id."""

    seed = fields.Integer(load_default=1)
    projects = fields.Integer(load_default=12, validate=validate.Range(0, 1_000_000))
    issues = fields.Integer(load_default=300, validate=validate.Range(0, 10_000_000))
    changed = fields.Dict(fields.String(), fields.Dict(fields.String()), load_default=dict)
    removed = fields.List(fields.String(), load_default=list)


SCHEMA = TrackerSchema()


def blueprint(door: Door) -> Blueprint:
    """Return the tracker's routes."""
    routes = door.open(Blueprint(NAME, __name__))

    @routes.get("/projects")
    def list_projects() -> Response:
        """List projects by cursor."""
        settings = door.settings
        found, following = page(
            request.args,
            total=settings["projects"],
            record=lambda number: _current(settings, project(settings["seed"], number)),
        )
        return answer({"projects": found, "nextCursor": following})

    @routes.get("/issues")
    def list_issues() -> Response:
        """List issues by cursor."""
        settings = door.settings
        found, following = page(
            request.args,
            total=settings["issues"] if settings["projects"] else 0,
            record=lambda number: _current(
                settings, issue(settings["seed"], number, projects=settings["projects"])
            ),
        )
        return answer({"issues": found, "nextCursor": following})

    return routes


def project(seed: int, number: int) -> dict[str, Any]:
    """Return the project of a number, from 1 on."""
    dice = Dice(seed, f"project-{number}")
    subject, kind = dice.one_of(SUBJECTS), dice.one_of(KINDS)
    return {
        "id": f"project-{number}",
        "key": f"{subject[:3].upper()}{number}",
        "name": f"{subject} {kind}",
        "state": dice.one_of(PROJECT_STATES),
        "owner": f"user-{1 + dice.below(USERS)}",
        "updatedAt": dice.moment(),
    }


def issue(seed: int, number: int, *, projects: int) -> dict[str, Any]:
    """Return the issue of a number, from 1 on, in one of so many projects."""
    dice = Dice(seed, f"issue-{number}")
    of = project(seed, 1 + dice.below(projects))
    return {
        "id": f"issue-{number}",
        "key": f"{of['key']}-{number}",
        "projectId": of["id"],
        "title": dice.one_of(ISSUES).format(of["name"]),
        "state": dice.one_of(ISSUE_STATES),
        "priority": dice.one_of(PRIORITIES),
        "assignee": f"user-{1 + dice.below(USERS)}" if dice.below(4) else None,
        "updatedAt": dice.moment(),
    }


def _current(settings: Mapping[str, Any], record: dict[str, Any]) -> dict[str, Any] | None:
    if record["id"] in settings["removed"]:
        return None
    changed: Mapping[str, Any] = settings["changed"].get(record["id"], {})
    return {**record, **changed}
