"""Findings about the Redis server: whether it may lose, refuse or misdate what it is given."""

from __future__ import annotations

from collections.abc import Iterator

from jobserver.broker.vitals import OLDEST, Vitals
from jobserver.doctor.finding import Finding

NEARLY, AS_GOOD_AS = 0.80, 0.95  # of maxmemory
SKEW, FAR_OFF = 2.0, 60.0  # seconds between this host's clock and the server's
MIB = 1024 * 1024


def unreachable(error: Exception) -> Finding:
    """Say that there is no server to ask."""
    return Finding(
        severity="error",
        name="redis-unreachable",
        what=str(error),
        why="Nothing is enqueued and nothing starts; workers keep the ends of what they run.",
        remedy="Start Redis or Valkey, or correct REDIS_URL; all processes go on by themselves.",
    )


def findings(vitals: Vitals, *, now: float, oldest: tuple[int, int] = OLDEST) -> Iterator[Finding]:
    """Yield what is wrong with a server that answers; `now` is the time by this host's clock."""
    if vitals.version < oldest:
        yield Finding(
            severity="error",
            name="redis-too-old",
            what=f"This is Redis {_dotted(vitals.version)}.",
            why=f"The scripts use commands of Redis {_dotted(oldest)} and later.",
            remedy="Upgrade it; any later Redis or Valkey will do.",
        )
    if vitals.is_replica:
        yield Finding(
            severity="error",
            name="redis-replica",
            what="This server is a replica.",
            why="It takes no writes: every enqueue and every claim is refused.",
            remedy="Let REDIS_URL name the primary, or promote this one: REPLICAOF NO ONE.",
        )
    yield from _memory(vitals)
    yield from _durability(vitals)
    yield from _clock(vitals, now=now)


def _memory(vitals: Vitals) -> Iterator[Finding]:
    if not vitals.max_memory:
        return
    if vitals.policy != "noeviction":
        yield Finding(
            severity="error",
            name="redis-evicts",
            what=f"maxmemory-policy is {vitals.policy!r}.",
            why="When memory runs out the server drops keys: jobs vanish without a trace.",
            remedy="CONFIG SET maxmemory-policy noeviction, and the same in its configuration.",
        )
    share = vitals.used_memory / vitals.max_memory
    if share >= NEARLY:
        yield Finding(
            severity="error" if share >= AS_GOOD_AS else "warning",
            name="redis-full",
            what=f"{vitals.used_memory / MIB:.0f} of {vitals.max_memory / MIB:.0f} MiB are used "
            f"({share:.0%}).",
            why="A full server refuses every enqueue (HTTP 503); running jobs still end.",
            remedy="flask jobs stats shows where jobs lie; flask jobs clean QUEUE, a lower "
            "retention (QUEUE_<QUEUE>_COMPLETED_COUNT), or more maxmemory.",
        )


def _durability(vitals: Vitals) -> Iterator[Finding]:
    if vitals.failing:
        yield Finding(
            severity="error",
            name="redis-cannot-write",
            what=f"The server could not write its {' and its '.join(vitals.failing)}.",
            why="What it holds now would not survive a restart, and it may refuse writes.",
            remedy="Look at its log, disk space and permissions.",
        )
    if vitals.appends:
        return
    lost = "nothing is kept" if vitals.snapshots is False else "all since the last snapshot is lost"
    yield Finding(
        severity="error" if vitals.snapshots is False else "warning",
        name="redis-not-durable",
        what="The server writes no append-only file.",
        why=f"When it restarts, {lost}: jobs that an enqueue has promised would never run.",
        remedy="CONFIG SET appendonly yes, and the same in its configuration "
        "(docs/operations/deployment.md, Durability).",
    )


def _clock(vitals: Vitals, *, now: float) -> Iterator[Finding]:
    skew = now - vitals.clock
    if abs(skew) < SKEW:
        return
    word = "ahead of" if skew > 0 else "behind"
    yield Finding(
        severity="error" if abs(skew) >= FAR_OFF else "warning",
        name="clock-skew",
        what=f"This host's clock is {abs(skew):.0f} s {word} the Redis server's.",
        why="Leases and schedules go by the server's clock, `at=` and the ledger by this one.",
        remedy="Let NTP (chrony, systemd-timesyncd) set the clocks of both.",
    )


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))
