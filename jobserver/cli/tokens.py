"""`flask jobs token …`: making, listing and revoking bearer tokens."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import click
from flask.cli import AppGroup

from jobserver import current
from jobserver.cli.shell import operator_action
from jobserver.ledger import tokens
from jobserver.ledger.tokens import Token

ROLES = ("viewer", "operator", "admin", "user")

_LIFE = re.compile(r"(\d{1,5})([mhd])")
_UNITS = {"m": "minutes", "h": "hours", "d": "days"}


commands = AppGroup("token", help="Make, list and revoke bearer tokens.")


def _expiry(_: click.Context, __: click.Parameter, value: str | None) -> datetime | None:
    if value is None:
        return None
    now = datetime.now(UTC)
    if life := _LIFE.fullmatch(value):
        return now + timedelta(**{_UNITS[life[2]]: max(1, int(life[1]))})
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        moment = now
    if moment.tzinfo is None or moment <= now:
        raise click.BadParameter(
            f"{value!r} is not accepted: use 30m, 12h or 90d, or a later time with its offset from "
            "UTC, like 2027-01-31T12:00+00:00"
        )
    return moment


@commands.command()
@click.argument("name")
@click.option("--role", type=click.Choice(ROLES), required=True, help="What it may do.")
@click.option("--owner", help="Whose jobs and follows a `user` token sees.")
@click.option("--expires", callback=_expiry, help="When it ends: 30m, 12h, 90d, or a time.")
def create(*, name: str, role: str, owner: str | None, expires: datetime | None) -> None:
    """Make a token called NAME, and print its secret: this once, nothing can show it again."""
    with operator_action("token.create", target=name) as action:
        db = current.server().db
        secret = tokens.create(db, name=name, role=role, owner=owner, expires_at=expires)
        action.detail = f"role {role}" + (f", owner {owner}" if owner else "")
    click.echo(f"Token {name!r}, role {role}; keep it, it is shown this once:", err=True)
    click.echo(secret)


@commands.command("list")
def list_tokens() -> None:
    """List all tokens, never their secrets."""
    row = "{:<24} {:<9} {:<16} {:<17} {}"
    click.echo(row.format("NAME", "ROLE", "OWNER", "CREATED", "STATE"))
    for token in tokens.listed(current.server().db):
        created = f"{token.created_at:%Y-%m-%d %H:%M}"
        click.echo(row.format(token.name, token.role, token.owner or "-", created, _state(token)))


@commands.command()
@click.argument("name")
def revoke(*, name: str) -> None:
    """Refuse the token called NAME from now on; every web process does within 5 seconds."""
    with operator_action("token.revoke", target=name):
        before = tokens.revoke(current.server().db, name)
    already = before.revoked_at is not None
    click.echo(f"Token {name!r} was revoked already." if already else f"Token {name!r} is revoked.")


def _state(token: Token) -> str:
    if token.revoked_at is not None:
        return f"revoked {token.revoked_at:%Y-%m-%d %H:%M}"
    if not token.is_valid(datetime.now(UTC)):
        return f"expired {token.expires_at:%Y-%m-%d %H:%M}"
    return f"until {token.expires_at:%Y-%m-%d %H:%M}" if token.expires_at else "valid"
