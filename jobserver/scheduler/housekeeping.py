"""What must be done somewhere, again and again: due jobs, lost workers, the outbox, retention."""

from __future__ import annotations

from functools import partial

from jobserver.ledger import engines, series
from jobserver.ledger.prune import prune
from jobserver.losses import Losses
from jobserver.policy import MINUTE
from jobserver.recorder import Recorder
from jobserver.scheduler.backlog_watch import BacklogWatch
from jobserver.scheduler.chores import Chore
from jobserver.server import Server

GATHER = 0.1  # seconds in which events come together, for one transaction


def chores(server: Server) -> list[Chore]:
    """Return the chores of a server; any number of processes may do them at once.

    Needs an app context when the server's db is Flask-SQLAlchemy.
    """
    queues = list(server.registry.queues.values())
    found = [
        Chore("promotion of due jobs", partial(server.broker.promote, queues)),
        Chore("recovery from lost workers", partial(recover, server)),
        Chore("retention sweep", partial(server.broker.sweep, queues), interval=MINUTE),
        Chore("ends by stock tools", partial(server.broker.reconcile, queues), interval=MINUTE / 2),
    ]
    of_host = engines(server.db)
    for key, engine in of_host.items():
        if key is None:
            found.append(Chore("recorder", Recorder(server, engine).work, interval=GATHER))
            close = Losses(server, of_host).close
            found.append(Chore("runs that Redis lost", close, interval=MINUTE))
            look = BacklogWatch(server.broker).look
            found.append(Chore("watch over the backlog of the ledger", look, interval=5))
        name = f"outbox relay of bind {key!r}" if key else "outbox relay"
        found.append(Chore(name, partial(server.outbox.relay, engine)))
        if key is None:
            publish = partial(series.publish, engine, server.broker)
            found.append(Chore("histograms for scrapes", publish, interval=5))
            found.append(Chore("old minutes", partial(series.prune, engine), interval=MINUTE))
            days, most = server.config.ledger_days, server.config.ledger_runs
            forget = partial(prune, engine, days=days, most=most)
            found.append(Chore("retention of the ledger", forget, interval=5 * MINUTE))
    return found


def recover(server: Server) -> None:
    """Take back the jobs of workers that let their leases run out."""
    lease = server.config.lease_seconds
    queues = list(server.registry.queues.values())
    # A third of the lease, as workers say it: what counts as a gap in which none could be renewed.
    server.tell_recovered(server.broker.recover(queues, interval=lease / 3, lease=lease))
