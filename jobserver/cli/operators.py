"""`flask jobs stats`, `inspect`, `failed`, `retry`, `recover`, `doctor`: seeing and mending."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Any

import click

from jobserver import current, payload
from jobserver.broker import Job, QueueState
from jobserver.broker.entries import Entries
from jobserver.broker.inspection import Inspected, inspect_job, inspect_queue
from jobserver.broker.listing import Wanted
from jobserver.broker.workers import WorkerState
from jobserver.cli.output import in_json, pretty, table
from jobserver.cli.shell import operator_action
from jobserver.doctor import examine
from jobserver.doctor.finding import age
from jobserver.errors import UnknownQueue
from jobserver.rescue import rescue

MOST = 1000  # failed jobs that one call lists
NOWHERE = "nowhere: it ended and was let go, or is held by no list"


@click.command()
@in_json
def stats(*, as_json: bool) -> None:
    """Print how every queue stands, and which workers and schedulers there are."""
    server = current.server()
    states = list(server.statistics().values())
    workers, beats = server.workers(), Entries(server.broker).schedulers()
    names = list(states[0].counts) if states else []
    totals = {name: sum(state.counts[name] for state in states) for name in names}
    if as_json:
        queues = {state.queue.name: _state(state) for state in states}
        schedulers = {name: _moment(beat) for name, beat in beats.items()}
        click.echo(
            pretty(
                {"queues": queues, "totals": totals, "workers": workers, "schedulers": schedulers}
            )
        )
        return
    rows = [
        (state.queue.name, *state.counts.values(), _waited(state), _mark(state)) for state in states
    ]
    head = ("QUEUE", *map(str.upper, names), "OLDEST", "STATE")
    click.echo(table(head, [*rows, ("(all)", *totals.values(), "", "")]))
    click.echo()
    columns = ("WORKER", "HOST", "PID", "STATE", "RUNS", "SLOTS", "COMPLETED", "FAILED", "SEEN")
    click.echo(table(columns, map(_worker_row, workers)) if workers else "No worker is registered.")
    click.echo()
    served = [(name, f"{_ago(beat)} ago") for name, beat in beats.items()]
    click.echo(table(("SCHEDULER", "SEEN"), served) if served else "No scheduler is registered.")


@click.command()
@click.argument("name", metavar="QUEUE|JOB")
@in_json
def inspect(*, name: str, as_json: bool) -> None:
    """Print what Redis holds of a queue, or of a job: which keys, how much, and who has it."""
    server = current.server()
    try:
        queue = server.registry.queue(name)
    except UnknownQueue:
        found = inspect_job(server.broker, name)
        found = replace(found, data=_redacted(found))
        attempts = server.attempts(name)
        if as_json:
            click.echo(pretty({**asdict(found), "attempts": [asdict(one) for one in attempts]}))
            return
        _print_job(found)
        for one in attempts:
            word = "completed" if one.completed else "failed"
            click.echo(f"attempt {one.number}: {word} {_moment(one.ended)} on {one.worker}")
            if one.error:
                click.echo("  " + one.error.strip().splitlines()[-1])
        return
    places = inspect_queue(server.broker, queue)
    if as_json:
        click.echo(
            pretty({place.key: {"size": place.size, "head": place.head} for place in places})
        )
        return
    rows = [(place.key, place.size, ", ".join(place.head)) for place in places]
    click.echo(table(("KEY", "SIZE", "FIRST"), rows) if rows else f"{queue.name} is empty.")


@click.command()
@click.option("--queue", help="Only of this queue: its name, key or an alias.")
@click.option("--limit", type=click.IntRange(1, MOST), default=50, show_default=True)
@in_json
def failed(*, queue: str | None, limit: int, as_json: bool) -> None:
    """List failed jobs, the newest first."""
    jobs, more = current.server().search(Wanted(states=("failed",)), queue=queue, limit=limit)
    if as_json:
        click.echo(pretty([_failure(job) for job in jobs]))
        return
    if not jobs:
        click.echo("No job has failed, of those that are kept.")
        return
    rows = [
        (job.id, job.queue, job.type, f"{job.attempt}/{job.attempts}", _time(job.ended_at),
         _one_line(job.failed_reason))
        for job in jobs
    ]  # fmt: skip
    click.echo(table(("JOB", "QUEUE", "TYPE", "ATTEMPT", "ENDED", "ERROR"), rows))
    if more:
        click.echo(f"There are more: --limit {min(limit * 10, MOST)}", err=True)


@click.command()
@click.argument("job_id", metavar="[JOB]", required=False)
@click.option("--queue", help="A queue, with --all.")
@click.option("--all", "everything", is_flag=True, help="All failed jobs of the queue.")
def retry(*, job_id: str | None, queue: str | None, everything: bool) -> None:
    """Queue a failed or canceled JOB again, or all failed ones: --queue QUEUE --all."""
    server = current.server()
    if job_id and not everything:
        with operator_action("job.retry", target=job_id):
            job = server.retry(job_id, queue=queue)
        click.echo(f"{job.id} waits in {job.queue}")
    elif queue and everything and not job_id:
        with operator_action("queue.retry", target=queue) as action:
            count = server.retry_all_failed(queue)
            action.detail = f"{count} jobs"
        click.echo(f"{count} jobs wait in {queue}")
    else:
        raise click.UsageError("name a JOB, or give --queue QUEUE --all")


@click.command()
@click.option(
    "--wait",
    type=click.FloatRange(min=0),
    help="Seconds to give silent workers to renew their leases; default: as long as it takes.",
)
def recover(*, wait: float | None) -> None:
    """Take back the jobs of lost workers now; one that runs elsewhere is never touched.

    Any worker or scheduler does this all the time. It is for when none can.
    """
    server = current.server()
    patience = 1.5 * server.config.lease_seconds if wait is None else wait
    with operator_action("jobs.recover", target="all queues") as action:
        done = rescue(server, patience=patience)
        action.detail = (
            f"{len(done.recoveries)} taken back, {done.promoted} due, {done.cleared} cleared"
        )
    for recovery in done.recoveries:
        click.echo(f"{recovery.id} was taken back: {recovery.outcome}")
    if done.orphans:
        click.echo(f"{done.orphans} of the active jobs had no lease")
    if done.cleared:
        click.echo(f"{done.cleared} traces of jobs that are over were cleared away")
    if done.promoted:
        click.echo(f"{done.promoted} delayed jobs were due and wait in line now")
    if done.left:
        click.echo(f"{done.left} leases have run out and rest for now: do it again", err=True)
    elif not done.recoveries:
        click.echo("No job had to be taken back.")


@click.command()
@in_json
def doctor(*, as_json: bool) -> None:
    """Look at Redis, SQL and the processes; exit code 1 when something is wrong."""
    findings = examine(current.server())
    errors = sum(finding.severity == "error" for finding in findings)
    if as_json:
        click.echo(pretty({"findings": findings}))
    else:
        for finding in findings:
            click.echo(f"{finding.severity}: {finding.what}  [{finding.name}]")
            click.echo(f"    {finding.why}\n    -> {finding.remedy}")
        click.echo(
            f"{len(findings)} findings, {errors} of them errors." if findings else "All well."
        )
    sys.exit(1 if errors else 0)


COMMANDS = (stats, inspect, failed, retry, recover, doctor)


def _redacted(found: Inspected) -> Any:
    if isinstance(found.data, str):
        return found.data
    function, arguments, options = found.data
    if len(arguments) > 1:
        name, values, *more = arguments
        arguments = [name, current.server().redacted(str(name), values), *more]
    return [function, arguments, options]


def _print_job(found: Inspected) -> None:
    lease = "none" if found.lease is None else f"{found.lease} s left"
    facts = [
        *found.fields.items(),
        ("data", _plain(found.data)),
        ("(expires in)", f"{found.expires} s" if found.expires is not None else "never"),
        ("(lies in)", ", ".join(f"{key} at {at:g}" for key, at in found.places.items()) or NOWHERE),
        ("(lease)", lease),
        ("(held as)", found.held or "nothing"),
    ]
    click.echo(table(("FIELD", "VALUE"), [(name, _one_line(value)) for name, value in facts]))


def _state(state: QueueState) -> Mapping[str, Any]:
    return {
        "counts": state.counts,
        "completedEver": state.completed_ever,
        "oldestAt": state.oldest_at,
        "pause": state.pause and asdict(state.pause),
    }


def _mark(state: QueueState) -> str:
    if state.pause is None:
        return ""
    until = f" until {_moment(state.pause.until)}" if state.pause.until else ""
    return f"paused{until}" + (f": {state.pause.reason}" if state.pause.reason else "")


def _waited(state: QueueState) -> str:
    return _ago(state.oldest_at.timestamp()) if state.oldest_at else "-"


def _worker_row(worker: WorkerState) -> Sequence[object]:
    slots = [n for n in (worker.process_slots, worker.thread_slots) if n is not None]
    seen = f"{_ago(worker.seen_at.timestamp())} ago" if worker.seen_at else "-"
    return (
        worker.name, worker.host, worker.pid or "-", worker.state, len(worker.jobs),
        sum(slots) if slots else "-", worker.completed, worker.failed, seen,
    )  # fmt: skip


def _failure(job: Job) -> Mapping[str, Any]:
    fields = ("id", "queue", "type", "key", "attempt", "attempts", "ended_at", "error_type")
    return {name: getattr(job, name) for name in fields} | {"error": job.failed_reason}


def _ago(moment: float) -> str:
    return age(max(0.0, time.time() - moment))


def _moment(seconds: float) -> str:
    return _time(datetime.fromtimestamp(seconds, tz=UTC))


def _time(moment: datetime | None) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S}Z" if moment else "-"


def _one_line(value: str | None) -> str:
    return " ".join((value or "-").split())


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else payload.dumps(value).decode()
