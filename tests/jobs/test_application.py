"""The application factory, its database and its home page."""

import re
import sqlite3
import subprocess
import sys
import threading
import time
from html.parser import HTMLParser
from pathlib import Path

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import text, update

from jobs.application import create_app
from jobs.records import Plan, Shop, db, writing, writing_in_background
from jobs.settings import Settings
from jobserver import errors
from tests.jobs.http import TOKEN
from tests.jobs.shops import make_shop

ROOT = Path(__file__).parents[2]


def settings(tmp_path: Path) -> Settings:
    """Settings whose Redis and database do not exist."""
    return Settings(
        instance_path=tmp_path / "nowhere",
        redis_url="redis://127.0.0.1:1/0",
        database_url=f"sqlite:///{tmp_path}/nowhere/jobserver.db",
        secret_key="a secret of the tests",
    )


def test_making_the_application_touches_neither_redis_nor_sql(tmp_path: Path) -> None:
    app = create_app(settings(tmp_path))
    assert not (tmp_path / "nowhere").exists()
    assert "follows.sync_products" in app.extensions["jobserver"].registry.types


def test_two_applications_live_in_one_process(tmp_path: Path) -> None:
    first, second = create_app(settings(tmp_path)), create_app(settings(tmp_path))
    assert first.extensions["jobserver"] is not second.extensions["jobserver"]


def test_the_application_s_settings_come_from_the_environment(tmp_path: Path) -> None:
    environ = {"JOBSERVER_INSTANCE": str(tmp_path), "RESYNC_HOURS": "1.5"}
    found = Settings.from_env(environ)
    assert (found.resync_hours, found.sync_batch_pause) == (1.5, 0)
    with pytest.raises(errors.ConfigInvalid, match=r"RESYNC_HOURS: '-1' .* use a number"):
        Settings.from_env(environ | {"RESYNC_HOURS": "-1"})


def test_heavy_libraries_stay_out_of_the_web_process(tmp_path: Path) -> None:
    code = (
        "import sys; from jobs.application import create_app; create_app(); "
        "print(' '.join(name for name in ('alembic', 'flask_migrate', 'rq_scheduler', "
        "'jobserver.worker', 'jobserver.scheduler', 'httpx') if name in sys.modules))"
    )
    assert python(code, instance=tmp_path).strip() == ""


def python(code: str, *, instance: Path) -> str:
    """Run code in a new interpreter; its output."""
    environ = {"JOBSERVER_INSTANCE": str(instance), "PATH": "", "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-c", code],
        env=environ,
        cwd=instance,
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    ).stdout


def test_sqlite_writes_ahead_and_waits_for_other_writers(app: Flask) -> None:
    if db.engine.dialect.name != "sqlite":
        return
    with db.engine.connect() as connection:
        found = [
            connection.execute(text(f"PRAGMA {name}")).scalar()
            for name in ("journal_mode", "busy_timeout", "foreign_keys")
        ]
    assert found == ["wal", 5000, 1]


def test_a_writing_transaction_is_a_writer_from_its_first_statement(app: Flask) -> None:
    if db.engine.dialect.name != "sqlite":
        return
    other = sqlite3.connect(str(db.engine.url.database), timeout=0)
    try:
        with writing(), pytest.raises(sqlite3.OperationalError, match="locked"):
            other.execute("BEGIN IMMEDIATE")
        other.execute("BEGIN IMMEDIATE")
        other.rollback()
        # One that only reads leaves the writers alone.
        db.session.get(Shop, 1)
        other.execute("BEGIN IMMEDIATE")
    finally:
        other.close()


@pytest.mark.alone
def test_jobs_that_write_batch_after_batch_leave_room_for_others(app: Flask) -> None:
    make_shop("Shop")
    ended = threading.Event()
    written = threading.Semaphore(0)

    def write_batches() -> None:
        with app.app_context():
            while not ended.is_set():
                with writing_in_background() as session:
                    session.execute(update(Shop).values(name="Busy"))
                    deadline = time.monotonic() + 0.02
                    while time.monotonic() < deadline:
                        pass
                written.release()

    threads = [threading.Thread(target=write_batches) for _ in range(4)]
    for thread in threads:
        thread.start()
    waits = []
    try:
        for _ in range(10):
            assert written.acquire(timeout=30)
            assert written.acquire(timeout=30)
            started = time.monotonic()
            with writing() as session:
                session.execute(update(Shop).values(plan=Plan.FREE))
            # As the engine's outbox does, which knows of no lines.
            with db.engine.begin() as connection:
                connection.execute(update(Shop).values(plan=Plan.FREE))
            waits.append(time.monotonic() - started)
    finally:
        ended.set()
        for thread in threads:
            thread.join()
    # Where jobs neither rest nor take turns, SQLite lets some wait for its whole five seconds.
    assert sum(waits) < 2.5, waits


def test_an_exception_undoes_a_writing_transaction(app: Flask) -> None:
    with pytest.raises(KeyError), writing() as session:
        session.add(Shop(name="Lost"))
        session.flush()
        raise KeyError
    assert db.session.query(Shop).count() == 0


class Assets(HTMLParser):
    """Collects what a page loads, and what its scripts and styles hold inline."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.inline: list[str] = []
        self.labels: set[str | None] = set()
        self.controls: set[str | None] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Look at one tag."""
        named = dict(attrs)
        if tag in ("script", "img", "link"):
            self.loaded.append(named.get("src") or named.get("href") or "")
        self.inline += [name for name in named if name.startswith("on") or name == "style"]
        if (tag == "script" and "src" not in named) or tag == "style":
            self.inline.append(tag)
        if tag == "label":
            self.labels.add(named.get("for"))
        if tag == "select" or (tag == "input" and named.get("type") == "number"):
            self.controls.add(named.get("id"))


@pytest.fixture
def visitor(app: Flask) -> FlaskClient:
    """A browser that has signed in at the home page's request."""
    make_shop("<b>Odd</b> & shop")
    make_shop("Other")
    visitor = app.test_client()
    response = visitor.get("/")
    assert response.status_code == 303
    signed_in = visitor.post("/sign-in", data={"token": TOKEN, "next": "/"})
    assert (signed_in.status_code, signed_in.headers["Location"]) == (303, "/")
    return visitor


def test_the_home_page_is_for_those_who_signed_in_and_loads_nothing_foreign(
    visitor: FlaskClient,
) -> None:
    response = visitor.get("/")
    assert response.status_code == 200
    assert "&lt;b&gt;Odd&lt;/b&gt; &amp; shop" in response.text
    page = Assets()
    page.feed(response.text)
    assert page.inline == []
    assert page.controls <= page.labels
    for address in page.loaded:
        assert address.startswith("/")
        with visitor.get(address) as loaded:
            assert loaded.status_code == 200
    assert "script-src 'self'" in response.headers["Content-Security-Policy"]


def test_a_signed_in_page_makes_a_follow_with_its_csrf_token(visitor: FlaskClient) -> None:
    token = re.search(r'data-csrf-token="([^"]+)"', visitor.get("/").text)
    assert token is not None
    first, second = (shop.id for shop in db.session.query(Shop).order_by(Shop.id))
    body = {
        "mode": "resell",
        "followerShopId": second,
        "sourceShopId": first,
        "markupPercentage": 0,
    }
    db.session.remove()
    assert visitor.post("/api/follows", json=body).status_code == 403
    made = visitor.post("/api/follows", json=body, headers={"X-CSRF-Token": token[1]})
    assert made.status_code == 202
