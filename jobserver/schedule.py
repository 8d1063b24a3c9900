"""Declarations of recurring jobs: values that say which job is enqueued when. They run nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from jobserver.broker.entry import Entry, Misfire, Overlap, wrong_fields
from jobserver.config import Config
from jobserver.errors import DeclarationInvalid, PayloadInvalid, PayloadTooLarge
from jobserver.job_type import JobType
from jobserver.policy import DAY, HOUR, MINUTE, Priority

_UNITS = {"_minutes": MINUTE, "_hours": HOUR, "_days": DAY}


@dataclass(frozen=True, kw_only=True)
class Recurring:
    """What every recurring job has; see docs/schedules.md for the policies.

    `id` names the schedule for good: a tick's job id is `<id>-<Unix seconds>`. `start` and `end`
    are times with their offset from UTC; `jitter` and `grace` are seconds.
    """

    id: str
    job: JobType
    payload: Mapping[str, object] = field(default_factory=dict)
    jitter: float = 0
    start: datetime | None = None
    end: datetime | None = None
    count: int | None = None
    misfire: Misfire = "once"
    limit: int = 100
    grace: float = 60
    overlap: Overlap = "skip"
    priority: Priority = "normal"
    paused: bool = False

    def __post_init__(self) -> None:
        self.entry()
        try:
            self.job.prepare(self.payload)
        except (PayloadInvalid, PayloadTooLarge) as error:
            raise DeclarationInvalid(f"schedule {self.id!r} is not accepted: {error}") from None

    def entry(self, config: Config | None = None) -> Entry:
        """Return the entry that this declares, with what a configuration sets of it.

        Raises DeclarationInvalid.
        """
        entry = Entry(
            id=self.id,
            type=self.job.name,
            payload=self.payload,
            jitter=self.jitter,
            start=self.start,
            end=self.end,
            count=self.count,
            misfire=self.misfire,
            limit=self.limit,
            grace=self.grace,
            overlap=self.overlap,
            priority=self.priority,
            paused=self.paused,
            **self._times(config),
        )
        if wrong := entry.problems():
            fields = wrong_fields(wrong)
            raise DeclarationInvalid(f"schedule {self.id!r} is not accepted: {fields}")
        return entry

    def _times(self, config: Config | None) -> dict[str, Any]:
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Every(Recurring):
    """Enqueue `job` each `seconds`, on a grid that starts at `start`, or at the Unix epoch.

    `setting` names a field of the configuration that replaces `seconds`; a name that ends in
    `_minutes`, `_hours` or `_days` is taken in that unit.
    """

    seconds: float
    setting: str | None = None

    def _times(self, config: Config | None) -> dict[str, Any]:
        value = getattr(config, self.setting) if config and self.setting else None
        if self.setting is None or not value:
            return {"seconds": self.seconds}
        units = (unit for suffix, unit in _UNITS.items() if self.setting.endswith(suffix))
        return {"seconds": float(value) * next(units, 1)}


@dataclass(frozen=True, kw_only=True)
class Cron(Recurring):
    """Enqueue `job` at the times of a cron expression in a time zone (IANA name).

    The expression has five fields, or six with seconds first; see jobserver/cron.py.
    """

    cron: str
    timezone: str = "UTC"

    def _times(self, config: Config | None) -> dict[str, Any]:
        return {"cron": self.cron, "timezone": self.timezone}
