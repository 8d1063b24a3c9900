"""`flask db`: Flask-Migrate on this application's records, loaded only when a command needs it."""

from pathlib import Path
from typing import Any, cast

import click
from flask import Flask
from flask.cli import AppGroup

from jobs.records.database import db

DIRECTORY = Path(__file__).with_name("migrations")


class MigrateOnDemand:
    """Stands in `app.extensions["migrate"]` until it is used, then puts Flask-Migrate there.

    Importing Flask-Migrate takes longer than importing Flask; only its commands have a use for it.
    """

    def __init__(self, app: Flask) -> None:
        self._app = app

    def __getattr__(self, name: str) -> Any:
        """Return the attribute of Flask-Migrate's own extension object."""
        from flask_migrate import Migrate

        Migrate(self._app, db, directory=str(DIRECTORY))
        return getattr(self._app.extensions["migrate"], name)


class Commands(AppGroup):
    """Flask-Migrate's commands, imported when one is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return their names."""
        return _flask_migrate().list_commands(ctx)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return one of them."""
        return _flask_migrate().get_command(ctx, cmd_name)


def _flask_migrate() -> click.Group:
    from flask_migrate.cli import db as group

    return cast(click.Group, group)


def init_app(app: Flask) -> None:
    """Give `app` the command group `flask db`; imports nothing heavy."""
    app.cli.add_command(Commands("db", help="Migrate the application's tables."))
    app.extensions["migrate"] = MigrateOnDemand(app)
