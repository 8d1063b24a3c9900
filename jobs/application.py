"""The application factory: records and job server; the routes are in site.py."""

from pathlib import Path

from flask import Flask

from jobs import records
from jobs.records import db, migrate
from jobs.settings import Settings
from jobserver import JobServer

TEMPLATES = Path(__file__).parent.parent / "templates"


def create_app(settings: Settings | None = None) -> Flask:
    """Return the application; touches neither Redis nor SQL. Raises ConfigInvalid.

    Without `settings` they are read from the environment.
    """
    settings = settings or Settings.from_env()
    app = Flask(
        __name__,
        instance_path=str(settings.instance_path),
        template_folder=str(TEMPLATES),
        static_folder=str(TEMPLATES / "static"),
    )
    app.config.from_mapping(
        SECRET_KEY=settings.secret_key, SQLALCHEMY_DATABASE_URI=settings.database_url
    )
    records.init_app(app)
    migrate.init_app(app)
    JobServer(app, jobs=["jobs", "jobs.queues"], db=db, routes="jobs.site", config=settings)
    return app
