"""Steps that are repeated for as long as the process lives, whatever Redis and SQL do meanwhile."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from jobserver.errors import NotMigrated, Unavailable

PAUSE = 1.0  # seconds at least until a step that failed is tried again

logger = logging.getLogger(__name__)


@dataclass
class Chore:
    """One step, done each `interval` seconds; it logs when it starts to fail, and works again."""

    name: str
    step: Callable[[], object]
    interval: float = 1.0
    failing: str | None = None

    def attempt(self) -> bool:
        """Do the step; return whether it succeeded. Raises no Exception."""
        try:
            self.step()
        except Exception as error:  # the process outlives whatever Redis, SQL or one step does
            if self.failing != type(error).__name__:
                is_known = isinstance(error, Unavailable | NotMigrated)
                logger.warning(
                    "%s fails, will be tried again: %s", self.name, error, exc_info=not is_known
                )
            self.failing = type(error).__name__
            return False
        if self.failing is not None:
            logger.warning("%s works again", self.name)
            self.failing = None
        return True


class Chores:
    """Chores in threads of their own, so that one that waits (for SQL, say) holds up no other."""

    def __init__(self, chores: Sequence[Chore]) -> None:
        self._chores = chores
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Start all of them."""
        # Daemons: a chore that hangs in SQL must not keep the process. Each may be killed anywhere.
        self._threads = [
            threading.Thread(target=self._repeat, args=(chore,), name=chore.name, daemon=True)
            for chore in self._chores
        ]
        for thread in self._threads:
            thread.start()

    def stop(self, *, timeout: float) -> None:
        """Let them end; wait `timeout` seconds in all for those that are at work."""
        self._stopping.set()
        deadline = time.monotonic() + timeout
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _repeat(self, chore: Chore) -> None:
        while not self._stopping.is_set():
            is_well = chore.attempt()
            self._stopping.wait(chore.interval if is_well else max(chore.interval, PAUSE))
