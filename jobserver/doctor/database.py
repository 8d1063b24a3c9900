"""Findings about the SQL databases: whether they answer, are migrated, and what waits in them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from jobserver.doctor.finding import Finding, age, counted
from jobserver.ledger.condition import Condition
from jobserver.policy import MINUTE

PATIENCE = MINUTE  # the outbox relay of any scheduler pushes each second


def findings(conditions: Sequence[Condition]) -> Iterator[Finding]:
    """Yield what is wrong with databases in these conditions."""
    for found in conditions:
        name = f"The database of bind {found.bind!r}" if found.bind else "The database"
        option = f" --bind {found.bind}" if found.bind else ""
        if found.error:
            yield Finding(
                severity="error",
                name="database-unreachable",
                what=f"{name} cannot be reached: {' '.join(found.error.split())}",
                why="Enqueues in a transaction fail, tokens can't be checked, nothing is recorded; "
                "jobs run on.",
                remedy="Start it, or correct DATABASE_URL.",
            )
        elif not found.is_migrated:
            yield Finding(
                severity="error",
                name="database-not-migrated",
                what=f"{name} lacks tables of this version, or is of a later one.",
                why="What needs them answers 503 or fails.",
                remedy=f"flask jobs migrate{option}",
            )
        elif found.oldest and (waited := _seconds_since(found.oldest)) > PATIENCE:
            yield Finding(
                severity="error",
                name="outbox-pending",
                what=f"{counted(found.pending, 'job')} that a transaction has committed since "
                f"{age(waited)} are not enqueued yet.",
                why="The outbox relay of a scheduler does that each second; none does, or Redis "
                "refuses them.",
                remedy="flask jobs scheduler; its log names rows that Redis refuses.",
            )


def _seconds_since(moment: datetime) -> float:
    return (datetime.now(UTC) - moment).total_seconds()
