"""What the engine's tests on real servers share: a database of each kind, and a broker."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from jobserver.broker import Broker, connect
from tests import databases


@pytest.fixture(scope="session")
def postgresql(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start a PostgreSQL for this session; its URL."""
    with databases.postgresql(tmp_path_factory.mktemp("postgresql")) as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The URL of a database, once per kind; the one of PostgreSQL may hold tables."""
    if request.param == "postgresql":
        return str(request.getfixturevalue("postgresql"))
    return f"sqlite:///{tmp_path_factory.mktemp('sqlite') / 'host.db'}"


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a SQLite database with the engine's tables and `notes`, all empty."""
    path = tmp_path_factory.mktemp("prepared") / "host.db"
    engine = databases.host_engine(f"sqlite:///{path}")
    databases.prepare(engine)
    engine.dispose()
    return path


@pytest.fixture
def engine(database: str, prepared: Path) -> Iterator[Engine]:
    """An engine on that database, with the engine's tables and `notes`, all empty."""
    engine = databases.host_engine(database)
    if engine.dialect.name == "sqlite":
        shutil.copy(prepared, str(engine.url.database))
    else:
        databases.prepare(engine)
    yield engine
    databases.settle()
    engine.dispose()


@pytest.fixture
def broker(redis: object, valkey: str) -> Iterator[Broker]:
    """A broker on an empty server."""
    connection = connect(valkey)
    yield Broker(connection)
    connection.close()
