"""`flask jobs dead-letters …`: seeing to failed runs, one, a group, or many."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from datetime import datetime
from typing import Any, TypeVar

import click
from flask.cli import AppGroup

from jobserver import current, payload, retries
from jobserver.cli.output import pretty, table
from jobserver.cli.shell import operator_action
from jobserver.errors import RunNotFound
from jobserver.ledger import dead_letters, runs
from jobserver.ledger.runs import Run, Sought

Command = TypeVar("Command", bound=Callable[..., Any])

commands = AppGroup("dead-letters", help="List, retry and discard failed runs.")


def filtered(command: Command) -> Command:
    """Give a command the options that say which dead letters are meant."""
    for option in (
        click.option("--error", help="Part of the error's message."),
        click.option("--owner", help="Whose jobs."),
        click.option("--queue", help="Name, key or alias of a queue."),
        click.option("--type", "type_name", help="A job type."),
    ):
        command = option(command)
    return command


@commands.command("list")
@filtered
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
def list_groups(*, limit: int, as_json: bool, **filters: str | None) -> None:
    """List dead letters by what they have in common, those with the newest first."""
    groups, more = dead_letters.groups(current.server().db, _sought(**filters), limit=limit)
    if as_json:
        click.echo(pretty([asdict(group) for group in groups]))
        return
    if not groups:
        click.echo("There are no dead letters.")
        return
    rows = [
        (group.fingerprint, group.count, group.example.type, _time(group.first_seen),
         _time(group.last_seen), _error(group.example))
        for group in groups
    ]  # fmt: skip
    click.echo(table(("FINGERPRINT", "RUNS", "TYPE", "FIRST", "LAST", "ERROR"), rows))
    if more:
        click.echo(f"There are more: --limit {min(limit * 10, 1000)}", err=True)


@commands.command()
@click.argument("fingerprint")
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True)
def show(*, fingerprint: str, limit: int) -> None:
    """List the dead letters of one FINGERPRINT, the newest first."""
    found, more = dead_letters.find(current.server().db, fingerprint, limit=limit)
    rows = [(run.run, run.job, run.owner or "-", _time(run.ended_at), _error(run)) for run in found]
    none = "There are no dead letters with this fingerprint."
    click.echo(table(("RUN", "JOB", "OWNER", "ENDED", "ERROR"), rows) if rows else none)
    if more:
        click.echo(f"There are more: --limit {min(limit * 10, 1000)}", err=True)


@commands.command()
@click.argument("fingerprint", required=False)
@filtered
@click.option("--all", "everything", is_flag=True, help="All dead letters.")
@click.option("--run", "run_id", help="One run.")
@click.option("--payload", "edited", metavar="JSON", help="Another payload, with --run.")
def retry(*, run_id: str | None, edited: str | None, **chosen: Any) -> None:
    """Retry the dead letters of a FINGERPRINT, those that fit the options, or all; or one --run."""
    server = current.server()
    if run_id is not None:
        given = None if edited is None else _object(edited)
        with operator_action("run.retry", target=run_id):
            job = retries.retry(server, _run(run_id, **chosen), payload=given)
        click.echo(f"{job.id} waits in {job.queue}")
        return
    if edited is not None:
        raise click.UsageError("--payload is for one --run")
    sought = _chosen(**chosen)
    with operator_action("dead-letters.retry", target=_target(**chosen)) as action:
        tally = retries.retry_all(server, sought)
        action.detail = (
            f"{tally.retried} retried, {tally.enqueued} enqueued, {tally.skipped} skipped, "
            f"{tally.refused} refused"
        )
    click.echo(action.detail)
    for refusal in tally.refusals:
        click.echo(f"{refusal.run}: {refusal.detail}", err=True)
    if tally.more:
        click.echo("There are more: give the same command again.", err=True)


@commands.command()
@click.argument("fingerprint", required=False)
@filtered
@click.option("--all", "everything", is_flag=True, help="All dead letters.")
@click.option("--run", "run_id", help="One run.")
def discard(*, run_id: str | None, **chosen: Any) -> None:
    """Let those dead letters be none any more; their runs stay on record."""
    server, more = current.server(), False
    if run_id is not None:
        with operator_action("run.discard", target=run_id):
            count = dead_letters.settle(server.db, [_run(run_id, **chosen).run])
    else:
        sought = _chosen(**chosen)
        with operator_action("dead-letters.discard", target=_target(**chosen)) as action:
            count, more = retries.discard_all(server, sought)
            action.detail = f"{count} discarded"
    click.echo(f"{count} discarded")
    if more:
        click.echo("There are more: give the same command again.", err=True)


def _chosen(*, everything: bool, **filters: str | None) -> Sought:
    if everything == any(filters.values()):
        raise click.UsageError("name a FINGERPRINT, say which with options, or give --all")
    return _sought(**filters)


def _sought(
    *,
    type_name: str | None,
    queue: str | None,
    owner: str | None,
    error: str | None,
    fingerprint: str | None = None,
) -> Sought:
    name = current.server().registry.queue(queue).name if queue else None
    return Sought(type=type_name, queue=name, owner=owner, error=error, fingerprint=fingerprint)


def _target(*, everything: bool, **filters: str | None) -> str:
    said = {name.removesuffix("_name"): value for name, value in filters.items() if value}
    return " ".join(f"{name}={value}" for name, value in said.items()) or "all"


def _run(run_id: str, **others: Any) -> Run:
    if any(others.values()):
        raise click.UsageError("--run goes with no other choice")
    run = runs.get(current.server().db, run_id)
    if run is None:
        raise RunNotFound(f"No run with id {run_id!r} is on record")
    return run


def _object(text: str) -> dict[str, Any]:
    try:
        value = payload.loads(text)
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is no JSON: {error}", param_hint="--payload") from error
    if not isinstance(value, dict):
        raise click.BadParameter(f"{text!r} is no JSON object", param_hint="--payload")
    return value


def _error(run: Run) -> str:
    words = f"{run.error_type or ''}: {run.error_message or ''}".strip(": ")
    return " ".join(words.split())[:80]


def _time(moment: datetime | None) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S}" if moment else "-"
