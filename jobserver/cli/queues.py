"""`flask jobs pause`, `resume`, `clean`: what is done to a whole queue."""

from __future__ import annotations

import click

from jobserver import current
from jobserver.cli.shell import operator_action

STATES = ("completed", "failed", "canceled")


@click.command()
@click.argument("queue")
@click.option("--reason", default="", help="Why, for who wonders.")
def pause(*, queue: str, reason: str) -> None:
    """Let nothing of QUEUE start until it is resumed; running jobs finish."""
    with operator_action("queue.pause", target=queue) as action:
        action.detail = reason
        is_new = current.server().pause(queue, reason=reason)
    click.echo(f"{queue} is paused" if is_new else f"{queue} was paused already")


@click.command()
@click.argument("queue")
def resume(*, queue: str) -> None:
    """Let a paused QUEUE go on."""
    with operator_action("queue.resume", target=queue):
        was_paused = current.server().resume(queue)
    click.echo(f"{queue} goes on" if was_paused else f"{queue} was not paused")


@click.command()
@click.argument("queue")
@click.option(
    "--hours", type=click.FloatRange(min=0), default=24, show_default=True, help="Their least age."
)
@click.option(
    "--state",
    "states",
    type=click.Choice(STATES),
    multiple=True,
    default=STATES,
    help="Only jobs of this state; may be repeated.",
)
def clean(*, queue: str, hours: float, states: tuple[str, ...]) -> None:
    """Purge the jobs of QUEUE that ended so many hours ago."""
    with operator_action("queue.clean", target=queue) as action:
        removed = current.server().clean(queue, older_than=hours * 3600, states=states)
        action.detail = f"{removed} jobs"
    click.echo(f"{removed} jobs purged from {queue}")


COMMANDS = (pause, resume, clean)
