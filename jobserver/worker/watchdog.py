"""The watchdog: ends a worker whose dispatcher is frozen, as by a C call that holds the GIL.

It runs without the GIL. By then the worker's leases have run out and its jobs run elsewhere; only
its supervisor still takes it for alive.
"""

from __future__ import annotations

import faulthandler

PAT = 1.0  # seconds between two pats that count


class Watchdog:
    """Ends the process with 1 and a traceback, `patience` seconds after it was last patted."""

    def __init__(self, *, patience: float) -> None:
        self._patience = patience
        self._due = 0.0  # monotonic

    def pat(self, now: float) -> None:
        """Say that the dispatcher lives, at monotonic time `now`."""
        if now >= self._due:
            self._due = now + PAT
            faulthandler.dump_traceback_later(self._patience, exit=True)

    def close(self) -> None:
        """Watch no longer."""
        faulthandler.cancel_dump_traceback_later()
