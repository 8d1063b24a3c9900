"""`flask jobs …`: the engine's commands."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click
from flask.cli import AppGroup, ScriptInfo

from jobserver import current, ledger, payload
from jobserver.broker import Job
from jobserver.cli import dead_letters, operators, queues, schedules, tokens
from jobserver.cli.output import pretty
from jobserver.errors import ConfigInvalid, JobServerError


class Commands(AppGroup):
    """A group whose commands end with the engine's one-line message, not with a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; turns JobServerError into exit code 1 and its message.

        Those who look at what it prints are told of warnings; all it logs is in LOG_DIR.
        """
        from jobserver import log

        app = ctx.ensure_object(ScriptInfo).load_app()
        log.start(app.extensions[current.EXTENSION].config, level="WARNING")
        try:
            return super().invoke(ctx)
        except JobServerError as error:
            raise click.ClickException(str(error)) from error


commands = Commands("jobs", help="Run, feed and inspect the job server.")
commands.add_command(dead_letters.commands)
commands.add_command(schedules.commands)
commands.add_command(tokens.commands)
for command in (*operators.COMMANDS, *queues.COMMANDS):
    commands.add_command(command)


# Scheduler, worker and log are imported where they are run: the web process must not load them.


@commands.command()
@click.option("--burst", is_flag=True, help="Do one pass of everything and end.")
def scheduler(*, burst: bool) -> None:
    """Serve recurring entries, due jobs, lost workers and the outbox until SIGTERM."""
    from jobserver import log
    from jobserver.scheduler import Scheduler

    server = current.server()
    log.start(server.config)
    Scheduler(server).run(burst=burst)


@commands.command()
@click.argument("queues", nargs=-1)
@click.option("--queues", "listed", default="", metavar="A,B", help="The same, in one word.")
@click.option(
    "--concurrency",
    type=click.IntRange(1, 1000),
    help="Jobs at a time, of thread queues and of process queues each.",
)
@click.option("--burst", is_flag=True, help="Run what waits now and end.")
@click.option("--max-jobs", type=click.IntRange(min=1), help="End after so many jobs.")
def worker(
    *,
    queues: tuple[str, ...],
    listed: str,
    concurrency: int | None,
    burst: bool,
    max_jobs: int | None,
) -> None:
    """Run the jobs of QUEUES, of all queues when none is named, as `rq worker` does."""
    from jobserver.worker import Worker

    names = [*queues, *(name.strip() for name in listed.split(",") if name.strip())]
    Worker(names or ["default"], concurrency=concurrency).work(burst=burst, max_jobs=max_jobs)


@commands.command()
@click.option("--bind", help="A key of SQLALCHEMY_BINDS; default: the app's own database.")
def migrate(*, bind: str | None) -> None:
    """Bring the engine's tables up to date; safe to repeat."""
    known = ledger.engines(current.server().db)
    if bind not in known:
        keys = ", ".join(sorted(key for key in known if key)) or "none"
        wanted = f"bind {bind!r}" if bind else "db"
        raise ConfigInvalid(f"JobServer(app, db=…) has no {wanted}; it has the binds: {keys}")
    ledger.migrate(known[bind])
    click.echo("The job server's tables are up to date.")


@commands.command()
@click.argument("job_type")
@click.argument("values", metavar="[JSON]", default="{}")
@click.option("--key", help="Deduplication key, instead of the type's own.")
@click.option("--delay", type=click.FloatRange(min=0), help="Seconds to wait before the first run.")
@click.option("--priority", type=click.Choice(["high", "normal", "low"]), default="normal")
def enqueue(
    *, job_type: str, values: str, key: str | None, delay: float | None, priority: Any
) -> None:
    """Enqueue one job of JOB_TYPE with a JSON object as its payload, and print it."""
    try:
        loaded = payload.loads(values)
    except ValueError as error:
        raise click.BadParameter(f"{values!r} is no JSON: {error}", param_hint="JSON") from error
    server = current.server()
    job = server.enqueue(job_type, loaded, key=key, delay=delay, priority=priority)
    click.echo(_shown(job))


@commands.command()
@click.argument("job_id")
def show(*, job_id: str) -> None:
    """Print one job as it stands, or as its last run left it."""
    click.echo(_shown(current.server().find(job_id)))


def _shown(job: Job) -> str:
    value = asdict(job) | {"payload": current.server().redacted(job.type, job.payload)}
    return pretty(value)
