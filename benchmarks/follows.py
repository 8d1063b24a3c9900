"""How fast `POST /api/follows` answers while the syncs it started run: ten in parallel."""

from __future__ import annotations

import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.measure import Report
from tests.acceptance.test_make_run import System
from tests.acceptance.test_product_sync import Shops


def run(report: Report) -> None:
    """Start the whole system and create ten follows at once."""
    with tempfile.TemporaryDirectory() as directory:
        system = System(Path(directory))
        system.start()
        try:
            system.await_ready()
            shops = Shops(system)

            def timed(follower: int) -> float:
                began = time.perf_counter()
                assert shops.follow(follower, 1).status_code == 202
                return time.perf_counter() - began

            with ThreadPoolExecutor(10) as pool:
                slowest = max(pool.map(timed, range(2, 12)))
            report.figure(
                "slowest of ten parallel follows", slowest * 1000, at_most=500, unit=" ms"
            )
            shops.http.close()
        finally:
            system.kill()
