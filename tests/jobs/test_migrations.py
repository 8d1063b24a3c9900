"""The migrations and the models say the same, on both databases."""

from pathlib import Path

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from flask import Flask
from sqlalchemy import inspect

from jobs.application import create_app
from jobs.records import Base, db
from jobs.settings import Settings


def test_the_migrated_database_is_what_the_models_say(app: Flask) -> None:
    with db.engine.connect() as connection:
        migrations = MigrationContext.configure(
            connection,
            opts={
                "compare_type": True,
                "include_name": lambda name, kind, parents: (
                    kind != "table" or name in Base.metadata.tables
                ),
            },
        )
        assert compare_metadata(migrations, Base.metadata) == []


def test_a_migration_can_be_taken_back_and_repeated(tmp_path: Path) -> None:
    settings = Settings(instance_path=tmp_path, redis_url="redis://127.0.0.1:1/0")
    app = create_app(settings)

    def tables(*arguments: str) -> set[str]:
        result = app.test_cli_runner().invoke(args=["db", *arguments])
        assert result.exit_code == 0, result.output
        with app.app_context():
            found = set(inspect(db.engine).get_table_names())
            db.engine.dispose()
        return found & set(Base.metadata.tables)

    assert tables("upgrade") == tables("upgrade") == set(Base.metadata.tables)
    assert tables("downgrade", "base") == set()
    assert tables("upgrade") == set(Base.metadata.tables)
