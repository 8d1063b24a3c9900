"""The application factory: records, job server, and the routes of every system."""

from pathlib import Path

from flask import Blueprint, Flask

from jobs import records
from jobs.follows import cli as follows_cli
from jobs.follows import pages
from jobs.follows.routes import follows, shops
from jobs.integrations.routes import webhooks
from jobs.orders.routes import orders
from jobs.records import db, migrate
from jobs.sellers.routes import status as job_status
from jobs.settings import Settings
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
    server = JobServer(app, jobs=["jobs", "jobs.queues"], db=db, config=settings)
    for blueprint, role in BLUEPRINTS:
        server.protect(blueprint, role=role, seed=True)
        app.register_blueprint(blueprint)
    server.protect(pages.home, role="user", page=True)
    app.register_blueprint(pages.home)
    app.cli.add_command(follows_cli.commands)
    return app
