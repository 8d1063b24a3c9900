"""Findings about recurring jobs: those that cannot be enqueued."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from jobserver.broker.standing import Schedule
from jobserver.doctor.finding import Finding


def findings(schedules: Sequence[Schedule]) -> Iterator[Finding]:
    """Yield the schedules that were put off because they can't be fired."""
    for parked in (one for one in schedules if one.state == "parked"):
        yield Finding(
            severity="error",
            name="schedule-parked",
            what=f"Schedule {parked.entry.id!r} makes no jobs: {parked.reason}",
            why="It is tried again and again; the other schedules go on.",
            remedy="Correct it, or deploy the version that knows its job type.",
        )
