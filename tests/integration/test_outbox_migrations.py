"""The engine's tables come by migrations of their own, beside the host's."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import Engine, MetaData, create_engine, inspect, text

from jobserver import JobServer
from jobserver.ledger import metadata, migrate, owns_table
from tests import databases


@pytest.fixture
def bare(database: str) -> Iterator[Engine]:
    """An engine on a database without any tables."""
    engine = databases.host_engine(database)
    found = MetaData()
    found.reflect(engine)
    found.drop_all(engine)
    yield engine
    engine.dispose()


def test_migrations_make_what_the_models_say(bare: Engine) -> None:
    migrate(bare)
    with bare.connect() as connection:
        context = MigrationContext.configure(
            connection,
            opts={"include_name": lambda name, kind, _: kind != "table" or owns_table(name)},
        )
        differences = [
            change for change in compare_metadata(context, metadata) if change[0] != "remove_table"
        ]
    assert differences == []


def test_a_second_migration_changes_nothing(bare: Engine) -> None:
    migrate(bare)
    with bare.begin() as connection:
        connection.execute(
            text("INSERT INTO jobserver_outbox (id, created_at, request) VALUES ('a', :at, '{}')"),
            {"at": "2026-01-01 00:00:00"},
        )
    migrate(bare)
    with bare.connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM jobserver_outbox")) == 1
        assert connection.scalar(text("SELECT count(*) FROM jobserver_version")) == 1


def test_migrations_at_once_do_not_clash(bare: Engine, database: str) -> None:
    errors: list[Exception] = []
    together = threading.Barrier(4)

    def run(engine: Engine) -> None:
        together.wait(30)
        try:
            migrate(engine)
        except Exception as error:
            errors.append(error)
        finally:
            engine.dispose()

    engines = [make(database) for make in (databases.host_engine, create_engine) * 2]
    threads = [threading.Thread(target=run, args=(engine,)) for engine in engines]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert set(inspect(bare).get_table_names()) == {*metadata.tables, "jobserver_version"}


def test_a_host_with_its_own_history_keeps_it(bare: Engine) -> None:
    with bare.begin() as connection:
        connection.execute(text("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)"))
        connection.execute(text("INSERT INTO alembic_version VALUES ('host')"))
    migrate(bare)
    with bare.connect() as connection:
        assert connection.scalar(text("SELECT version_num FROM alembic_version")) == "host"
        assert connection.scalar(text("SELECT count(*) FROM jobserver_version")) == 1


@pytest.fixture
def host(
    bare: Engine, database: str, valkey: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Flask]:
    monkeypatch.setenv("REDIS_URL", valkey)
    app = Flask("host")
    app.config["SQLALCHEMY_DATABASE_URI"] = database
    db = SQLAlchemy(app)
    JobServer(app, db=db)
    yield app
    with app.app_context():
        db.engine.dispose()


def test_the_command_migrates_the_hosts_database(host: Flask, bare: Engine) -> None:
    for _ in range(2):
        result = host.test_cli_runner().invoke(args=["jobs", "migrate"])
        assert result.exit_code == 0, result.output
    assert inspect(bare).has_table("jobserver_outbox")


def test_an_unknown_bind_ends_the_command_with_one_line(host: Flask) -> None:
    result = host.test_cli_runner().invoke(args=["jobs", "migrate", "--bind", "nowhere"])
    assert result.exit_code == 1
    assert "bind 'nowhere'" in result.output
    assert "Traceback" not in result.output
