"""The application's routes, pages and commands, which workers do without."""

from flask import Blueprint, Flask

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
