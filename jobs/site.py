"""The application's routes, pages and commands, which workers do without."""

import click
from flask import Blueprint, Flask
from flask.cli import ScriptInfo

from jobs.follows import cli as follows_cli
from jobs.follows import pages
from jobs.follows.routes import follows, shops
from jobs.integrations.routes import webhooks
from jobs.orders.routes import orders
from jobs.sellers.routes import status as job_status
from jobs.users import cli as users_cli
from jobs.users.routes import jobs as user_sync
from jobserver import JobServer, Role

# The routes of every system, and the role that they take.
BLUEPRINTS: tuple[tuple[Blueprint, Role | None], ...] = (
    (follows, "user"),
    (shops, "user"),
    (orders, "user"),
    (job_status, "viewer"),
    (user_sync, "viewer"),
    (webhooks, None),  # each platform proves itself by a signature
)


def register(app: Flask) -> None:
    """Add the routes of every system to the application."""
    for blueprint, role in BLUEPRINTS:
        JobServer.protect(blueprint, role=role, seed=True)
        app.register_blueprint(blueprint)
    JobServer.protect(pages.home, role="user", page=True)
    app.register_blueprint(pages.home)
    for commands in (follows_cli.commands, users_cli.commands):
        app.cli.add_command(commands)
    app.cli.add_command(prepare)


@click.command()
@click.pass_context
def prepare(context: click.Context) -> None:
    """Bring all tables up to date, and load demo data into an empty database; safe to repeat.

    As `flask db upgrade`, `flask jobs migrate` and `flask follows demo`, in one process.
    """
    script = context.ensure_object(ScriptInfo)
    cli = script.load_app().cli
    for arguments in (["db", "upgrade"], ["jobs", "migrate"], ["follows", "demo"]):
        cli.main(arguments, prog_name="flask", obj=script, standalone_mode=False)
