"""`flask jobs schedules …`: which jobs are enqueued again and again, and steering that."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from typing import Any, get_args

import click
from flask.cli import AppGroup

from jobserver import current, payload
from jobserver.broker import Job
from jobserver.broker.entry import Entry, Misfire, Overlap
from jobserver.broker.standing import Schedule
from jobserver.cli.output import in_json, pretty, table
from jobserver.cli.shell import operator_action
from jobserver.policy import PRIORITIES

_SPAN = re.compile(r"(\d{1,12}(?:\.\d+)?)([smhd]?)")
_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}

commands = AppGroup("schedules", help="List, make, try and steer recurring jobs.")


def _span(_: click.Context, __: click.Parameter, value: str | None) -> float | None:
    """Return seconds, which may be said in other units."""
    if value is None:
        return None
    found = _SPAN.fullmatch(value)
    if not found:
        raise click.BadParameter(f"{value!r} is not accepted: use seconds, or 90s, 20m, 1.5h, 1d")
    return float(found[1]) * _UNITS[found[2]]


def _moment(_: click.Context, __: click.Parameter, value: str | None) -> datetime | None:
    """Return a time with its offset from UTC."""
    try:
        moment = None if value is None else datetime.fromisoformat(value)
    except ValueError:
        moment = datetime.max  # refused below
    if moment is not None and moment.tzinfo is None:
        raise click.BadParameter(
            f"{value!r} is not accepted: use a time like 2027-01-31T12:00+01:00"
        )
    return moment


@commands.command("list")
@in_json
def list_schedules(*, as_json: bool) -> None:
    """List all schedules by id, with when each is due next."""
    found = current.server().schedules.all()
    if as_json:
        click.echo(pretty([_shown(schedule) for schedule in found]))
        return
    head = ("ID", "TYPE", "WHEN", "NEXT", "STATE", "MADE", "SKIPPED", "MISSED")
    rows = [
        (
            *(one.entry.id, one.entry.type, one.entry.when, _time(one.next_at)),
            *(_state(one), one.made, one.skipped, one.missed),
        )
        for one in found
    ]
    click.echo(table(head, rows) if rows else "There is no schedule; has a scheduler run yet?")


@commands.command()
@click.argument("schedule_id", metavar="ID")
def show(*, schedule_id: str) -> None:
    """Print one schedule as it stands."""
    click.echo(pretty(_shown(current.server().schedules.get(schedule_id))))


@commands.command()
@click.argument("schedule_id", metavar="ID")
@click.argument("job_type")
@click.argument("values", metavar="[JSON]", default="{}")
@click.option("--cron", help="5 fields, or 6 with seconds first; names; @hourly and its like.")
@click.option(
    "--every",
    "seconds",
    callback=_span,
    metavar="SPAN",
    help="Instead: an interval, like 90s, 20m, 1d.",
)
@click.option("--timezone", "--tz", default="UTC", show_default=True, help="Of --cron.")
@click.option("--jitter", callback=_span, metavar="SPAN", help="Delay each time up to so much.")
@click.option("--start", callback=_moment, metavar="TIME", help="No time before this one.")
@click.option("--end", callback=_moment, metavar="TIME", help="No time from this one on.")
@click.option("--count", type=click.IntRange(1), help="Jobs to make before it ends.")
@click.option("--misfire", type=click.Choice(get_args(Misfire)), help="For missed times.")
@click.option("--limit", type=click.IntRange(1), help="Missed times that `all` makes up for.")
@click.option("--grace", callback=_span, metavar="SPAN", help="How late `skip` lets a time be.")
@click.option("--overlap", type=click.Choice(get_args(Overlap)), help="While a job is active.")
@click.option("--priority", type=click.Choice(PRIORITIES), help="Of its jobs.")
@click.option("--paused", is_flag=True, help="If it is new, make it paused.")
def put(*, schedule_id: str, job_type: str, values: str, **options: Any) -> None:
    """Make the schedule ID, or change it: enqueue JOB_TYPE with a JSON object as its payload."""
    try:
        loaded = payload.loads(values)
    except ValueError as error:
        raise click.BadParameter(f"{values!r} is no JSON: {error}", param_hint="JSON") from error
    given = {name: value for name, value in options.items() if value is not None}
    entry = Entry(id=schedule_id, type=job_type, payload=loaded, **given)
    with operator_action("schedule.put", target=schedule_id) as action:
        schedule, is_new = current.server().schedules.put(entry)
        made = "made" if is_new else "changed"
        action.detail = f"{made}: {schedule.entry.summary}"
    click.echo(f"{schedule_id} is {made}; it is due {_time(schedule.next_at)}")


@commands.command()
@click.argument("schedule_id", metavar="ID")
def delete(*, schedule_id: str) -> None:
    """Remove a schedule; the jobs that it made stay."""
    with operator_action("schedule.delete", target=schedule_id):
        current.server().schedules.delete(schedule_id)
    click.echo(f"{schedule_id} is removed")


@commands.command()
@click.argument("schedule_id", metavar="ID")
def trigger(*, schedule_id: str) -> None:
    """Make a schedule's job now, paused or not; its times stay."""
    with operator_action("schedule.trigger", target=schedule_id) as action:
        job = current.server().schedules.trigger(schedule_id)
        action.detail = job.id
    click.echo(f"{job.id} waits in {job.queue}")


@commands.command()
@click.argument("schedule_id", metavar="ID")
def pause(*, schedule_id: str) -> None:
    """Let a schedule make no job until it is resumed."""
    with operator_action("schedule.pause", target=schedule_id):
        current.server().schedules.pause(schedule_id)
    click.echo(f"{schedule_id} is paused")


@commands.command()
@click.argument("schedule_id", metavar="ID")
def resume(*, schedule_id: str) -> None:
    """Let a paused schedule go on; times that fell due meanwhile are treated as missed."""
    with operator_action("schedule.resume", target=schedule_id):
        schedule = current.server().schedules.resume(schedule_id)
    click.echo(f"{schedule_id} goes on; it is due {_time(schedule.next_at)}")


@commands.command()
@click.argument("schedule_id", metavar="ID")
@in_json
def runs(*, schedule_id: str, as_json: bool) -> None:
    """List what became of a schedule's last twenty times, the latest first."""
    server = current.server()
    found = server.schedules.runs(schedule_id)
    if as_json:
        click.echo(pretty(found))
        return
    jobs = server.find_many([tick.job for tick in found if tick.job])
    head = ("TIME", "OUTCOME", "TIMES", "JOB", "STATUS")
    rows = [
        (_time(tick.at), tick.word, tick.number, tick.job or "-", _status(jobs.get(tick.job or "")))
        for tick in found
    ]
    click.echo(table(head, rows) if rows else f"{schedule_id} has not been due yet.")


@commands.command()
@click.argument("cron")
@click.option("--timezone", "--tz", default="UTC", show_default=True, help="IANA name.")
@click.option("--count", "-n", type=int, default=5, show_default=True, help="How many times.")
def preview(*, cron: str, timezone: str, count: int) -> None:
    """Print the next times of a CRON expression, with their offset from UTC."""
    for moment in current.server().schedules.preview(cron, timezone=timezone, count=count):
        click.echo(f"{moment:%a} {moment.isoformat()}")


def _shown(schedule: Schedule) -> Mapping[str, Any]:
    entry = schedule.entry
    shown = asdict(entry) | {"payload": current.server().redacted(entry.type, entry.payload)}
    state = {name: value for name, value in asdict(schedule).items() if name != "entry"}
    return shown | state


def _status(job: Job | None) -> str:
    return job.status if job else "-"


def _state(schedule: Schedule) -> str:
    return f"{schedule.state}: {schedule.reason}" if schedule.reason else schedule.state


def _time(moment: datetime | None) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S}Z" if moment else "-"
