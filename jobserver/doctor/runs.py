"""Findings about single jobs: runs that nobody holds, data that nobody can read, other prefixes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from jobserver.broker.disorder import Disorder
from jobserver.doctor.finding import Finding, counted, some
from jobserver.ledger.runs import Run


def findings(found: Disorder) -> Iterator[Finding]:
    """Yield what is wrong with jobs of ours."""
    if found.stuck:
        yield Finding(
            severity="error",
            name="lease-stuck",
            what=f"{counted(found.stuck, 'run')} of lost workers should have been taken back: "
            f"{some(_jobs(found.overdue_leases))}.",
            why="Any worker or scheduler does that when a lease has run out; none does.",
            remedy="flask jobs recover",
        )
    if found.orphans:
        yield Finding(
            severity="error",
            name="run-without-lease",
            what=f"Active without a lease: {some(_jobs(found.orphans))}.",
            why="Somebody deleted keys by hand; no recovery finds these runs.",
            remedy="flask jobs recover",
        )
    if found.unreadable:
        yield Finding(
            severity="error",
            name="data-unreadable",
            what=f"Pickled or damaged data: {some(found.unreadable)}.",
            why="A stock client enqueued with pickle, which no worker here reads: these jobs fail.",
            remedy="Let it enqueue with JSONSerializer (docs/worker.md), or use this API.",
        )


def lost(found: Sequence[Run]) -> Iterator[Finding]:
    """Say that Redis lost runs, some of which are dead letters."""
    if found:
        yield Finding(
            severity="warning",
            name="runs-lost",
            what=f"Redis lost {counted(len(found), 'run')} of late: "
            f"{some(run.job for run in found)}.",
            why="It lost its data, or somebody deleted the jobs; they run no more by themselves.",
            remedy="flask jobs dead-letters retry --error 'Redis no longer has', or discard.",
        )


def other_prefix(prefixes: Sequence[str], *, ours: str) -> Iterator[Finding]:
    """Say that nothing is under our prefix, and something under another one."""
    if prefixes:
        yield Finding(
            severity="warning",
            name="prefix-mismatch",
            what=f"RQ_KEY_PREFIX is {ours!r} here, and no process has it; this database also holds "
            f"{some(map(repr, prefixes))}.",
            why="Processes with different prefixes don't see each other's jobs.",
            remedy="Give web, workers, scheduler and this shell the same RQ_KEY_PREFIX.",
        )


def _jobs(entries: Sequence[str]) -> list[str]:
    return [entry.partition(":")[0] for entry in entries]
