"""The shop for real servers: configured by the environment, with a route that creates a job."""

from __future__ import annotations

from flask import Blueprint, Flask, Response, jsonify
from werkzeug.middleware.proxy_fix import ProxyFix

from jobserver import Config, JobServer, current, ledger
from jobserver.ids import new_id
from tests.integration.web.shop import create_app as create_shop
from tests.integration.web.shop import db


def create_app(*, behind_proxy: bool = False) -> Flask:
    """Return the shop; `behind_proxy` believes X-Forwarded headers as a careless host would."""
    config = Config.from_env()
    app = create_shop(config, database=config.database_url, url_prefix="")
    routes = Blueprint("orders", __name__, url_prefix="/orders")
    JobServer.protect(routes, role="user")

    @routes.post("")
    @JobServer.idempotent
    def create() -> tuple[Response, int]:
        # Each call makes a job of its own: what is made once was asked once.
        job = current.server().enqueue("shop.send_letter", {"to": new_id()})
        return jsonify(id=job.id), 202

    app.register_blueprint(routes)
    with app.app_context():
        db.create_all()
        ledger.migrate(db.engine)
        db.engine.dispose()
    if behind_proxy:
        app.wsgi_app = ProxyFix(app.wsgi_app)  # type: ignore[method-assign]
    return app
