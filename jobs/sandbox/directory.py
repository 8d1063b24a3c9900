"""A user directory: paged, rate-limited, with ETags."""

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from flask import Blueprint, Response, request
from marshmallow import fields, validate

from jobs.sandbox.dice import Dice
from jobs.sandbox.door import BehaviourSchema, Door, Refused, answer
from jobs.sandbox.paging import ids, page

NAME = "directory"
FIRST_NAMES = (
    *("Ada", "Alan", "Amara", "Anders", "Barbara", "Chidi", "Chloé", "Dennis", "Edsger", "Fatima"),
    *("Grace", "Hedy", "Ingrid", "Ivan", "Jürgen", "Jin", "Katherine", "Ken", "Leslie", "Lucía"),
    *("Łukasz", "Margaret", "Mei", "Niklaus", "Nour", "Olga", "Priya", "Radia", "Søren", "Tim"),
)
LAST_NAMES = (
    *("Allen", "Backus", "Bartik", "Chen", "Codd", "Dijkstra", "Engelbart", "Floyd", "García"),
    *("Hamilton", "Hoare", "Hopper", "Ibarra", "Johnson", "Kowalski", "Lamarr", "Liskov", "Müller"),
    *("Naur", "Nguyễn", "Okafor", "O'Neill", "Perlman", "Ritchie", "Sharma", "Sørensen", "Tanaka"),
)
TITLES = ("Engineer", "Designer", "Analyst", "Manager", "Director", "Support agent", "Accountant")
DEPARTMENTS = ("Engineering", "Design", "Finance", "Operations", "People", "Sales", "Support")
# The malformed users of a behaviour have these in turn.
MALFORMATIONS: tuple[Mapping[str, Any], ...] = (
    MappingProxyType({"username": None}),
    MappingProxyType({"email": "no address"}),
    MappingProxyType({"active": "perhaps"}),
    MappingProxyType({"updatedAt": "yesterday"}),
)


class DirectorySchema(BehaviourSchema):
    """The directory: `users` of them, and what became of some, by id.

    `changed` has other fields for a user, `removed` ones are gone, `malformed` ones make no sense.
    """

    seed = fields.Integer(load_default=1)
    users = fields.Integer(load_default=150, validate=validate.Range(0, 10_000_000))
    deactivated = fields.List(fields.String(), load_default=list)
    removed = fields.List(fields.String(), load_default=list)
    changed = fields.Dict(fields.String(), fields.Dict(fields.String()), load_default=dict)
    malformed = fields.List(fields.String(), load_default=list)


SCHEMA = DirectorySchema()


def blueprint(door: Door) -> Blueprint:
    """Return the directory's routes."""
    routes = door.open(Blueprint(NAME, __name__, url_prefix="/directory"))

    @routes.get("/users")
    def list_users() -> Response:
        """List users by cursor, or those of some ids."""
        settings = door.settings
        if "ids" in request.args:
            found = [user(settings, _number(one)) for one in ids(request.args)]
            return answer({"users": [one for one in found if one], "nextCursor": None})
        users, following = page(
            request.args, total=settings["users"], record=lambda number: user(settings, number)
        )
        total = settings["users"] - len(settings["removed"])
        return answer({"users": users, "nextCursor": following, "total": total})

    @routes.get("/users/<user_id>")
    def show_user(user_id: str) -> Response:
        """Show one user."""
        found = user(door.settings, _number(user_id))
        if found is None:
            raise Refused(404, "not_found", f"There is no user {user_id!r}")
        return answer(found)

    return routes


def user(settings: Mapping[str, Any], number: int) -> dict[str, Any] | None:
    """Return the user of a number, from 1 on; None if there is none."""
    user_id = f"user-{number}"
    if not 1 <= number <= settings["users"] or user_id in settings["removed"]:
        return None
    dice = Dice(settings["seed"], user_id)
    first, last = dice.one_of(FIRST_NAMES), dice.one_of(LAST_NAMES)
    username = f"{first[0]}{last}{number}".lower()
    found = {
        "id": user_id,
        "username": username,
        "email": f"user{number}@directory.example",
        "firstName": first,
        "lastName": last,
        "title": dice.one_of(TITLES),
        "department": dice.one_of(DEPARTMENTS),
        "active": user_id not in settings["deactivated"],
        "updatedAt": dice.moment(),
    }
    found |= settings["changed"].get(user_id, {})
    if user_id in settings["malformed"]:
        turn = settings["malformed"].index(user_id)
        found |= MALFORMATIONS[turn % len(MALFORMATIONS)]
    return found


def _number(user_id: str) -> int:
    found = re.fullmatch(r"user-([1-9][0-9]{0,8})", user_id)
    return int(found[1]) if found else 0
