"""A shop that embeds the job server, and visitors of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from redis import Redis

from jobserver import Config, JobServer, ledger
from tests.integration.web import shop as shops
from tests.integration.web.shop import TOKEN, User, db

MakeShop = Callable[..., Flask]


@pytest.fixture
def make_shop(valkey: str, redis: Redis, tmp_path: Path) -> Iterator[MakeShop]:
    """Returns shops, each with its own database; keywords but `url_prefix` are of the Config."""
    made: list[Flask] = []

    def make(*, url_prefix: str = "/engine", **settings: Any) -> Flask:
        config = Config(
            **{"redis_url": valkey, "admin_token": TOKEN, "instance_path": tmp_path, **settings}
        )
        database = f"sqlite:///{tmp_path}/shop{len(made)}.db"
        app = shops.create_app(config, database=database, url_prefix=url_prefix)
        made.append(app)
        with app.app_context():
            db.create_all()
            ledger.migrate(db.engine)
            db.session.add_all([User(name="ada"), User(name="grace")])
            db.session.commit()
        return app

    yield make
    for app in made:
        with app.app_context():
            db.engine.dispose()
            server = app.extensions["jobserver"]
            server.broker.connection.close()


@pytest.fixture
def shop(make_shop: MakeShop) -> Iterator[Flask]:
    """A shop, inside its app context."""
    app = make_shop()
    with app.app_context():
        yield app


@pytest.fixture
def server(shop: Flask) -> JobServer:
    """The shop's job server."""
    found: JobServer = shop.extensions["jobserver"]
    return found


@pytest.fixture
def visitor(shop: Flask) -> FlaskClient:
    """Somebody who shows no credential."""
    return shop.test_client()


@pytest.fixture
def admin(shop: Flask) -> FlaskClient:
    """The administrator, by bearer token."""
    client = shop.test_client()
    client.environ_base["HTTP_AUTHORIZATION"] = f"Bearer {TOKEN}"
    return client


@pytest.fixture
def ada(shop: Flask) -> FlaskClient:
    """A customer of the shop."""
    client = shop.test_client()
    client.environ_base["HTTP_X_CUSTOMER"] = "ada"
    return client
