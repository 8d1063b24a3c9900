"""`flask db`: Flask-Migrate on this application's records, loaded only when a command needs it."""

from pathlib import Path
from typing import Any

from flask import Flask

from jobs.records.database import db

DIRECTORY = Path(__file__).with_name("migrations")


class MigrateOnDemand:
    """Stands in `app.extensions["migrate"]` until it is used, then puts Flask-Migrate there.

    Importing Flask-Migrate takes longer than importing Flask; only its command line, which Flask
    finds by its entry point, has a use for it.
    """

    def __init__(self, app: Flask) -> None:
        self._app = app

    def __getattr__(self, name: str) -> Any:
        """Return the attribute of Flask-Migrate's own extension object."""
        from flask_migrate import Migrate

        Migrate(self._app, db, directory=str(DIRECTORY))
        return getattr(self._app.extensions["migrate"], name)


def init_app(app: Flask) -> None:
    """Give `app` the command group `flask db`; imports nothing heavy."""
    app.extensions["migrate"] = MigrateOnDemand(app)
