"""Says in the log that the ledger falls behind: long before its bound, there, and after."""

from __future__ import annotations

import logging
import time
from typing import Literal

from jobserver.broker import Broker
from jobserver.broker.broker import MIB, Backlog
from jobserver.policy import MINUTE

LATE = MINUTE  # age of the oldest event that is not recorded, from which on it is behind
MUCH = 0.25  # of the bound, from which on it is behind
AGAIN = 5 * MINUTE  # seconds after which it says the same again

Level = Literal["well", "behind", "full"]

logger = logging.getLogger(__name__)


class BacklogWatch:
    """Looks, and logs what has changed."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._level: Level = "well"
        self._said_at = 0.0  # monotonic

    def look(self) -> Level:
        """Measure the backlog, which lets enqueue know of it, too; raises RedisUnavailable."""
        backlog = self._broker.backlog()
        if backlog is None:
            return "well"
        level = _level(backlog)
        now = time.monotonic()
        if level != self._level or (level != "well" and now - self._said_at >= AGAIN):
            self._say(level, backlog)
            self._level, self._said_at = level, now
        return level

    def _say(self, level: Level, backlog: Backlog) -> None:
        how = (
            f"{backlog.events} events, {backlog.size / MIB:.1f} MiB ({100 * backlog.share:.0f} % "
            f"of LEDGER_BACKLOG_MIB), the oldest {backlog.seconds:.0f} s old"
        )
        if level == "full":
            logger.error("nothing can be enqueued until the ledger's database takes %s", how)
        elif level == "behind":
            logger.warning("the ledger is behind by %s", how)
        else:
            logger.warning("the ledger has caught up: %s", how)


def _level(backlog: Backlog) -> Level:
    if backlog.is_full:
        return "full"
    return "behind" if backlog.seconds >= LATE or backlog.share >= MUCH else "well"
