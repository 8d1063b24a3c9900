"""Taking back what no process takes back now: what `DEL bull:…:active` was for, done safely."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from jobserver.broker import Recovery
from jobserver.broker.disorder import adopt_orphans, run_out
from jobserver.server import Server


@dataclass(frozen=True, kw_only=True, slots=True)
class Rescue:
    """What came of it. `left` runs still have a lease that ran out; they are taken back later.

    `orphans` had no lease at all; of `cleared` ones only traces were left.
    """

    recoveries: Sequence[Recovery]
    promoted: int
    orphans: int
    cleared: int
    left: int


def rescue(server: Server, *, patience: float) -> Rescue:
    """Take back the jobs of lost workers and put due ones into line; a living worker keeps its own.

    When no process has looked for lost workers lately, the first look gives each worker a lease's
    time to renew; this waits for that, up to `patience` seconds. Raises RedisUnavailable.
    """
    lease = server.config.lease_seconds
    queues = list(server.registry.queues.values())
    promoted = 0
    while moved := server.broker.promote(queues)[0]:
        promoted += moved
    orphans, cleared = adopt_orphans(server.broker, queues)
    recoveries: list[Recovery] = []
    deadline = time.monotonic() + patience
    while True:
        found = server.broker.recover(queues, interval=lease / 3, lease=lease)
        server.tell_recovered(found)
        recoveries += found
        left = run_out(server.broker)
        if not left or time.monotonic() >= deadline:
            break
        time.sleep(min(lease / 6, max(0.0, deadline - time.monotonic())))
    return Rescue(
        recoveries=recoveries, promoted=promoted, orphans=orphans, cleared=cleared, left=left
    )
