"""A shop that embeds the job server, and visitors of it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, request
from flask.testing import FlaskClient
from redis import Redis
from sqlalchemy import create_engine, insert

from jobs import application
from jobs.records import db as records
from jobs.settings import Settings
from jobserver import Config, JobServer, Principal, ledger
from jobserver.auth import GATE, Gate
from tests.hands import Hand
from tests.integration.web import shop as shops
from tests.integration.web.shop import TOKEN, User, db

MakeShop = Callable[..., Flask]


@pytest.fixture(scope="session")
def first_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file that every shop's database begins as: all tables, and two customers."""
    path = tmp_path_factory.mktemp("shop") / "shop.db"
    engine = create_engine(f"sqlite:///{path}")
    db.metadata.create_all(engine)
    ledger.migrate(engine)
    with engine.begin() as connection:
        connection.execute(insert(User), [{"name": "ada"}, {"name": "grace"}])
    engine.dispose()
    return path


@pytest.fixture
def make_shop(
    valkey: str, redis: Redis, first_database: Path, tmp_path: Path
) -> Iterator[MakeShop]:
    """Returns shops, each with its own database; keywords but `url_prefix` are of the Config."""
    made: list[Flask] = []

    def make(*, url_prefix: str = "/engine", **settings: Any) -> Flask:
        config = Config(
            **{"redis_url": valkey, "admin_token": TOKEN, "instance_path": tmp_path, **settings}
        )
        path = shutil.copy(first_database, tmp_path / f"shop{len(made)}.db")
        app = shops.create_app(config, database=f"sqlite:///{path}", url_prefix=url_prefix)
        made.append(app)
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


@pytest.fixture(scope="session")
def seed_application(
    valkey: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Flask, Config]]:
    """The application that the five documents describe, with the engine's tables."""
    instance = tmp_path_factory.mktemp("seeds")
    settings = Settings(
        instance_path=instance,
        redis_url=valkey,
        database_url=f"sqlite:///{instance}/seeds.db",
        secret_key="a secret of the tests",
    )
    app = application.create_app(settings)
    with app.app_context():
        ledger.migrate(records.engine)
    yield app, settings
    with app.app_context():
        records.engine.dispose()
    app.extensions["jobserver"].broker.connection.close()


@pytest.fixture
def seeds(seed_application: tuple[Flask, Config], redis: Redis) -> Iterator[Flask]:
    """That application on an empty Valkey; it believes the role that a request names."""
    app, settings = seed_application
    app.extensions[GATE] = Gate(settings, hook=named_role)
    with app.app_context():
        yield app


def named_role() -> Principal | None:
    """Return a principal with the role that a request names in a header."""
    role: Any = request.headers.get("X-Role")
    return Principal(name=f"a {role}", role=role) if role else None


AskAs = Callable[[str | None], FlaskClient]


@pytest.fixture
def ask_as(seeds: Flask) -> AskAs:
    """Returns clients of that application by role; None has no credential."""

    def ask_as(role: str | None) -> FlaskClient:
        client = seeds.test_client()
        if role is not None:
            client.environ_base["HTTP_X_ROLE"] = role
        return client

    return ask_as


@pytest.fixture
def viewer(ask_as: AskAs) -> FlaskClient:
    """Somebody who may look at everything."""
    return ask_as("viewer")


@pytest.fixture
def operator(ask_as: AskAs) -> FlaskClient:
    """Somebody who may pause, resume and retry."""
    return ask_as("operator")


@pytest.fixture
def hand(seeds: Flask) -> Hand:
    """A worker of all queues, whose steps the test takes itself."""
    server: JobServer = seeds.extensions["jobserver"]
    return Hand(server.broker, list(server.registry.queues.values()))
