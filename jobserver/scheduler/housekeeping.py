"""What must be done somewhere, again and again: due jobs, lost workers, the outbox, retention."""

from __future__ import annotations

from functools import partial

from jobserver.ledger import engines
from jobserver.policy import MINUTE
from jobserver.scheduler.chores import Chore
from jobserver.server import Server

INTERVAL = 1.0  # seconds


def chores(server: Server) -> list[Chore]:
    """Return the chores of a server; any number of processes may do them at once.

    Needs an app context when the server's db is Flask-SQLAlchemy.
    """
    queues = list(server.registry.queues.values())
    lease = server.config.lease_seconds
    found = [
        Chore("promotion of due jobs", lambda: server.broker.promote(queues), INTERVAL),
        Chore(
            "recovery from lost workers",
            lambda: server.broker.recover(queues, interval=INTERVAL, lease=lease),
            INTERVAL,
        ),
        Chore("retention sweep", lambda: server.broker.sweep(queues), MINUTE),
    ]
    for key, engine in engines(server.db).items():
        name = f"outbox relay of bind {key!r}" if key else "outbox relay"
        found.append(Chore(name, partial(server.outbox.relay, engine), INTERVAL))
    return found
