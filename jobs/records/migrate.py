"""`flask db`: Flask-Migrate on this application's records, imported when the command is given."""

from pathlib import Path

import click
from flask import Flask
from flask.cli import ScriptInfo

from jobs.records.database import db

DIRECTORY = Path(__file__).with_name("migrations")


@click.command(
    "db",
    add_help_option=False,
    context_settings={"ignore_unknown_options": True},
    help="Migrate the application's tables (Flask-Migrate).",
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def command(ctx: click.Context, arguments: tuple[str, ...]) -> None:
    """Pass everything on to Flask-Migrate, whose import takes longer than Flask's."""
    from flask_migrate import Migrate
    from flask_migrate.cli import db as commands

    script = ctx.ensure_object(ScriptInfo)
    Migrate(script.load_app(), db, directory=str(DIRECTORY))
    commands.main(list(arguments), prog_name="flask db", obj=script, standalone_mode=False)


def init_app(app: Flask) -> None:
    """Give `app` the command `flask db`; imports nothing heavy."""
    app.cli.add_command(command)
