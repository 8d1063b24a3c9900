"""Product sync in the whole running system: over HTTP, under kills of workers, web and Redis."""

from __future__ import annotations

import csv
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path

import httpx
import psutil
import pytest

from tests.acceptance.conftest import wait_until
from tests.acceptance.test_make_run import System

PRODUCTS = 5000


class Shops:
    """The running system as its user sees it."""

    def __init__(self, system: System) -> None:
        self.system = system
        token = (system.instance / "admin-token").read_text().strip()
        self.http = httpx.Client(
            base_url=f"http://127.0.0.1:{system.port}",
            headers={"Authorization": f"Bearer {token}"},
            timeout=10,
        )

    def follow(self, follower: int, source: int, *, markup: int = 20) -> httpx.Response:
        body = {
            "mode": "resell",
            "followerShopId": follower,
            "sourceShopId": source,
            "markupPercentage": markup,
        }
        return self.http.post("/api/follows", json=body)

    def status(self, follow_id: int) -> dict[str, object]:
        data: dict[str, object] = self.http.get(f"/api/follows/{follow_id}/sync-status").json()
        return dict(data["data"])  # type: ignore[call-overload]

    def await_completed(self, follow_id: int, *, seconds: float) -> dict[str, object]:
        wait_until(
            lambda: self.status(follow_id)["status"] in ("completed", "failed"), seconds=seconds
        )
        status = self.status(follow_id)
        assert status["status"] == "completed", status
        return status

    def rows(self, query: str) -> list[tuple[object, ...]]:
        with closing(sqlite3.connect(self.system.instance / "jobserver.db")) as database:
            return database.execute(query).fetchall()

    def python(self, script: str, *arguments: str) -> None:
        """Run a script in the system's own application."""
        subprocess.run(
            [sys.executable, "-c", script, *arguments],
            cwd=self.system.directory,
            env=self.system.environ(),
            check=True,
            timeout=120,
        )


StartSystem = Callable[..., Shops]


@pytest.fixture
def started(tmp_path: Path) -> Iterator[StartSystem]:
    """Return a function that starts the system with settings; it ends with the test."""
    system = System(tmp_path)
    with ExitStack() as stack:
        stack.callback(system.kill)

        def start(**settings: str) -> Shops:
            system.start(**settings)
            system.await_ready()
            shops = Shops(system)
            stack.callback(shops.http.close)
            return shops

        yield start


@pytest.mark.alone
def test_ten_parallel_follows_are_answered_at_once_and_all_complete(
    started: StartSystem,
) -> None:
    shops = started()

    def timed(follower: int) -> tuple[httpx.Response, float]:
        began = time.perf_counter()
        return shops.follow(follower, 1), time.perf_counter() - began

    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(timed, range(2, 12)))
    assert [answer.status_code for answer, _ in answers] == [202] * 10
    # 500 ms is asserted by `make bench`; a loaded test machine gets five times as long.
    assert max(seconds for _, seconds in answers) < 2.5
    (products,) = shops.rows("SELECT count(*) FROM products WHERE shop_id = 1 AND active")[0]
    for answer, _ in answers:
        done = shops.await_completed(answer.json()["data"]["id"], seconds=60)
        assert done["results"] == {"synced": products, "skipped": 0, "errors": 0}
        assert done["progress"] == 100


@pytest.mark.alone
def test_a_sync_killed_in_the_middle_is_completed_with_every_product_once(
    started: StartSystem, tmp_path: Path
) -> None:
    shops = started(SYNC_BATCH_PAUSE="0.08", WORKER_INSTANCES="2")
    catalogue = tmp_path / "big.csv"
    write_catalogue(catalogue, PRODUCTS)
    shops.python(IMPORT, "Big", str(catalogue))
    (source,) = shops.rows("SELECT id FROM shops WHERE name = 'Big'")[0]
    follow_id = shops.follow(2, int(str(source))).json()["data"]["id"]

    seen: list[tuple[int, float]] = []  # attempt and progress at every poll

    def poll() -> bool:
        job = shops.http.get(f"/api/v1/jobs/follow-{follow_id}").json()
        seen.append((job["attempt"], job["progress"]["percent"]))
        return job["status"] in ("completed", "failed")

    wait_until(lambda: poll() or seen[-1][1] >= 50, seconds=60)
    worker = shops.http.get(f"/api/v1/jobs/follow-{follow_id}").json()
    assert worker["status"] == "active"
    with closing(shops.system.redis()) as redis:
        name = redis.hget(f"rq:job:follow-{follow_id}", "worker_name").decode()
        os.kill(int(redis.hget(f"rq:worker:{name}", "pid")), signal.SIGKILL)
    killed_at = time.monotonic()
    wait_until(poll, seconds=30, what="completed within 30 s of the kill")
    assert time.monotonic() - killed_at < 30
    shops.await_completed(follow_id, seconds=1)

    attempts = sorted({attempt for attempt, _ in seen if attempt})
    assert attempts == [1, 2]
    for attempt in attempts:
        progress = [percent for number, percent in seen if number == attempt]
        assert progress == sorted(progress), "never falls within an attempt"
    assert len({percent for _, percent in seen}) >= 10

    copies = shops.rows(
        "SELECT p.handle, v.price FROM products p JOIN variants v ON v.product_id = p.id "
        "WHERE p.shop_id = 2 AND p.active AND p.handle LIKE 'product-%'"
    )
    # SQLite holds prices as ten-thousandths (jobs/records/columns.py).
    prices = {str(handle): Decimal(str(price)) / 10_000 for handle, price in copies}
    assert len(copies) == len(prices) == PRODUCTS
    for number in range(PRODUCTS):
        wanted = (price_of(number) * Decimal("1.2")).quantize(Decimal("0.01"), ROUND_HALF_UP)
        assert prices[f"product-{number}"] == wanted
    shops.system.stop()


@pytest.mark.parametrize("count", [60, pytest.param(300, marks=pytest.mark.soak)])
def test_every_committed_follow_is_synced_once_whatever_dies(
    started: StartSystem, count: int
) -> None:
    shops = started()
    system = shops.system
    shops.python(MANY_SHOPS, str(-(-count // 12)))
    sources = [row[0] for row in shops.rows("SELECT id FROM shops WHERE name LIKE 'Source %'")]
    followers = [row[0] for row in shops.rows("SELECT id FROM shops WHERE name LIKE 'Follower %'")]
    pairs = [(int(str(f)), int(str(s))) for f in followers for s in sources][:count]
    pairs.sort(key=lambda pair: hash(pair))  # mixed, and the same each time
    redis = system.redis()
    valkey = psutil.Process(redis.info("server")["process_id"])
    web = system.programs("gunicorn")[0]
    is_done = threading.Event()
    killed: list[int] = []

    def disturb() -> None:
        while not is_done.wait(0.3):
            # The push hangs between commit and Redis: whoever is killed now leaves outbox rows.
            valkey.suspend()
            is_done.wait(0.5)
            for child in web.children():
                child.kill()
                killed.append(child.pid)
            valkey.resume()

    disturber = threading.Thread(target=disturb)
    disturber.start()
    codes: Counter[int] = Counter()

    def post(pair: tuple[int, int]) -> None:
        for _ in range(100):
            try:
                code = shops.follow(*pair).status_code
            except httpx.TransportError:
                continue  # that web process was killed; did it commit? then 409 says so
            codes[code] += 1
            if code in (202, 409):
                return
        raise AssertionError(f"{pair} was never answered")

    try:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(post, pairs))
    finally:
        is_done.set()
        disturber.join()
    redis.close()
    assert len(killed) >= 2, "web processes died meanwhile"
    follows = [int(str(row[0])) for row in shops.rows("SELECT id FROM follows")]
    assert len(follows) == count
    assert all(shops.follow(*pair).status_code == 409 for pair in pairs[:5]), "rolled back"
    for follow_id in follows:
        shops.await_completed(follow_id, seconds=60)
    wait_until(lambda: shops.rows("SELECT count(*) FROM jobserver_outbox") == [(0,)])
    syncs = "SELECT job, state FROM jobserver_run WHERE type = 'follows.sync_products'"
    ended = f"{syncs} AND state = 'completed'"
    wait_until(lambda: len(shops.rows(ended)) >= count, what="the ledger to have the syncs")
    made = shops.rows(syncs)
    wanted = [(f"follow-{follow_id}", "completed") for follow_id in follows]
    assert sorted(made) == sorted(wanted), "exactly one sync each"
    system.stop()


def price_of(number: int) -> Decimal:
    return Decimal(number % 977) + Decimal("0.99")


def write_catalogue(path: Path, count: int) -> None:
    """Write a Shopify product CSV of `count` products with one variant each."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(
            ["Handle", "Title", "Option1 Name", "Option1 Value", "Variant Inventory Qty",
             "Variant Price", "Published"]
        )  # fmt: skip
        for number in range(count):
            writer.writerow(
                [f"product-{number}", f"Product {number}", "Title", "Default Title", 5,
                 price_of(number), "true"]
            )  # fmt: skip


IMPORT = """
import sys
from wsgi import app
done = app.test_cli_runner().invoke(args=["follows", "import-catalogue", *sys.argv[1:]])
sys.exit(done.exit_code and done.output)
"""

MANY_SHOPS = """
import sys
from pathlib import Path
from wsgi import app
from jobs.records import Shop, writing
csv = "Handle,Title,Option1 Name,Option1 Value,Variant Price\\nmug,Mug,Title,Default Title,5\\n"
Path("tiny.csv").write_text(csv)
with app.app_context():
    with writing() as session:
        for number in range(int(sys.argv[1])):
            session.add(Shop(name=f"Follower {number}", currency="USD"))
for number in range(12):
    done = app.test_cli_runner().invoke(
        args=["follows", "import-catalogue", f"Source {number}", "tiny.csv"]
    )
    assert done.exit_code == 0, done.output
"""
