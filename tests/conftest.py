"""The engine's own tests use its test kit, and an app of theirs."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from redis import Redis

from jobserver import JobServer
from tests.engine_app import create_app

pytest_plugins = ["jobserver.testing", "tests.sandbox"]

# How long one example takes says more about the machine than about the code.
settings.register_profile("jobserver", deadline=None)
settings.load_profile("jobserver")


def pytest_collection_finish() -> None:
    """Collect garbage seldom, and never look for it among the modules and tests that are loaded."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(5000)


@pytest.fixture
def server(
    redis: Redis, valkey: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[JobServer]:
    """The engine's test app on an empty Valkey, with a journal of its jobs' runs."""
    monkeypatch.setenv("REDIS_URL", valkey)
    monkeypatch.setenv("JOBSERVER_INSTANCE", str(tmp_path))
    monkeypatch.setenv("JOURNAL", str(tmp_path / "journal"))
    app = create_app()
    with app.app_context():
        yield app.extensions["jobserver"]
    app.extensions["jobserver"].broker.connection.close()
