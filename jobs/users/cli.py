"""`flask users …`: syncing users, and their schedule."""

import json

import click
from sqlalchemy import select

from jobs.commands import Commands
from jobs.records import User, db
from jobs.users import user_sync
from jobs.users.schemas import status_body

commands = Commands("users", help="Sync users, and steer the schedule that does.")


@commands.command()
@click.option("--full", is_flag=True, help="Read all users, not only those not synced lately.")
def sync(*, full: bool) -> None:
    """Queue a user sync now; a worker does it."""
    job = user_sync.trigger_immediate_sync("full" if full else "incremental")
    click.echo(f"User sync {job.id} is queued.")


@commands.command()
def status() -> None:
    """Print how user sync stands."""
    body = status_body(user_sync.get_user_sync_scheduler_status())
    click.echo(json.dumps(body, indent=2, ensure_ascii=False))


@commands.command()
def refused() -> None:
    """List the users whose last reading made no sense: id, name as last known, and the reason."""
    bad = select(User).where(User.sync_error.is_not(None)).order_by(User.directory_id)
    for user in db.session.scalars(bad):
        click.echo(f"{user.directory_id}\t{user.username or '-'}\t{user.sync_error}")


@commands.command()
def initialize() -> None:
    """Make the schedule known now, without waiting for a scheduler to start."""
    user_sync.initialize_user_sync_scheduler()
    click.echo("User sync is scheduled.")


@commands.command()
def pause() -> None:
    """Let no user sync start; those that run finish."""
    user_sync.pause_user_sync_scheduler()
    click.echo("User sync is paused.")


@commands.command()
def resume() -> None:
    """Let user syncs start again."""
    user_sync.resume_user_sync_scheduler()
    click.echo("User sync goes on.")


@commands.command("clean-up")
@click.option(
    "--hours", type=click.FloatRange(min=0), default=24, show_default=True, help="Their least age."
)
def clean_up(*, hours: float) -> None:
    """Purge the user syncs that ended so many hours ago."""
    click.echo(f"{user_sync.cleanup_old_jobs(hours=hours)} user syncs are purged.")
