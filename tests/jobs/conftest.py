"""The application on real SQLite and real PostgreSQL, and a Valkey of its own."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from redis import Redis
from sqlalchemy import delete
from werkzeug.test import TestResponse

from jobs.application import create_app
from jobs.records import Base, db, writing
from jobs.settings import Settings
from jobserver.ledger import metadata as engine_metadata
from tests import databases
from tests.jobs.http import TOKEN, bearer
from tests.sandbox import Sandbox


@pytest.fixture(scope="session")
def postgresql(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start a PostgreSQL of this test session; its address."""
    with databases.postgresql(tmp_path_factory.mktemp("postgresql")) as url:
        yield url


@pytest.fixture(scope="session", params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of an empty database, once per kind."""
    if request.param == "postgresql":
        return str(request.getfixturevalue("postgresql"))
    return f"sqlite:///{tmp_path_factory.mktemp('sqlite') / 'jobserver.db'}"


@pytest.fixture(scope="session")
def application(
    database: str,
    valkey: str,
    sandbox_process: Sandbox,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Flask]:
    """The application on that database, migrated as in an installation."""
    settings = Settings(
        instance_path=tmp_path_factory.mktemp("instance"),
        redis_url=valkey,
        database_url=database,
        admin_token=TOKEN,
        secret_key="a secret of the tests",
        directory_url=sandbox_process.url,
    )
    app = create_app(settings)
    assert app.test_cli_runner().invoke(args=["db", "upgrade"]).exit_code == 0
    assert app.test_cli_runner().invoke(args=["jobs", "migrate"]).exit_code == 0
    yield app
    with app.app_context():
        db.session.remove()
        db.engine.dispose()
    app.extensions["jobserver"].broker.connection.close()


@pytest.fixture
def app(application: Flask, redis: Redis) -> Iterator[Flask]:
    """The application with empty tables and an empty Valkey, its context pushed."""
    with application.app_context():
        empty_tables()
        yield application


class FreshSessionClient(FlaskClient):
    """A client whose requests find a new session, as in a server.

    Flask gives a request the app context that is there, the test's own, and so its session, with
    whatever transaction is open there.
    """

    def open(self, *args: Any, **kwargs: Any) -> TestResponse:
        """Send a request."""
        db.session.remove()
        return super().open(*args, **kwargs)


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    """A client that sends the administrator's token."""
    client = FreshSessionClient(app, app.response_class)
    client.environ_base["HTTP_AUTHORIZATION"] = bearer(TOKEN)
    return client


def empty_tables() -> None:
    """Delete every row, the engine's own included."""
    with writing() as session:
        for table in (*reversed(Base.metadata.sorted_tables), *engine_metadata.sorted_tables):
            session.execute(delete(table))


@pytest.fixture
def shared_catalogues() -> list[Path]:
    """The real Shopify files beside the repository; skips where they are not."""
    folder = Path(__file__).parents[3] / "shared" / "data" / "shopify-products"
    files = sorted(folder.glob("*.csv"))
    if not files:
        pytest.skip(f"no real catalogues in {folder}")
    return files
