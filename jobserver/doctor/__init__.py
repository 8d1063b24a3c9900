"""The doctor: looks at Redis, SQL and the processes, and says what is wrong and what to do."""

from __future__ import annotations

import time

from jobserver.broker import keys, metrics
from jobserver.broker.disorder import disorder, other_prefixes
from jobserver.broker.vitals import vitals
from jobserver.doctor import database, processes, queues, redis_server, runs, schedules
from jobserver.doctor.finding import Finding, Severity
from jobserver.errors import RedisUnavailable
from jobserver.ledger.condition import conditions
from jobserver.losses import told
from jobserver.server import Server

__all__ = ["Finding", "Severity", "examine"]

MOST_TOLD = 100  # of the runs that Redis lost

_SEVERITIES: tuple[Severity, ...] = ("error", "warning", "info")


def examine(server: Server) -> list[Finding]:
    """Return all findings, the worst first; changes nothing, and costs the same for any load.

    Needs an app context when the server's db is Flask-SQLAlchemy.
    """
    try:
        found = _redis(server)
    except RedisUnavailable as error:
        found = [redis_server.unreachable(error)]
    known = conditions(server.db, server.outbox)
    found += database.findings(known)
    if any(one.bind is None and one.is_migrated and not one.error for one in known):
        found += runs.lost(told(server.db, limit=MOST_TOLD))
    return sorted(found, key=lambda finding: _SEVERITIES.index(finding.severity))


def _redis(server: Server) -> list[Finding]:
    broker, queues_of_ours = server.broker, list(server.registry.queues.values())
    health = vitals(broker.connection)
    numbers, workers = metrics.read(broker, queues_of_ours), server.workers()
    # Leases run out one by one, and are looked for each third of one.
    lies = disorder(broker, queues_of_ours, overdue=2 * server.config.lease_seconds)
    found = [
        *redis_server.findings(health, now=time.time()),
        *processes.findings(numbers, workers, now=health.clock),
        *processes.recording(numbers, is_on=server.db is not None),
        *schedules.findings(server.schedules.all()),
        *queues.findings(numbers.queues, lies, types=frozenset(server.registry.types)),
        *runs.findings(lies),
    ]
    if numbers.silence is None and not workers:
        ours = keys.RQ.removesuffix(":")
        found += runs.other_prefix(other_prefixes(broker), ours=ours)
    return found
