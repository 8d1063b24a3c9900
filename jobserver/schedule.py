"""Recurring entries: values that say which job is enqueued how often. They run nothing."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from jobserver.errors import DeclarationInvalid
from jobserver.job_type import JobType


@dataclass(frozen=True, kw_only=True)
class Every:
    """Enqueue `job` each `seconds`, on a grid that starts at the Unix epoch.

    `id` names the entry for good: a tick's job id is `<id>-<epoch>`. `setting` names a field of the
    configuration that replaces `seconds`; a name that ends in `_minutes`, `_hours` or `_days` is
    taken in that unit.
    """

    id: str
    seconds: float
    job: JobType
    payload: Mapping[str, object] = field(default_factory=dict)
    setting: str | None = None

    def __post_init__(self) -> None:
        if self.seconds < 1:
            raise DeclarationInvalid(f"seconds={self.seconds!r} is not accepted: use ≥ 1")
        if not re.fullmatch(r"[A-Za-z0-9_-]{1,100}", self.id):
            raise DeclarationInvalid(
                f"id={self.id!r} is not accepted: use letters, digits, _ and -, 100 at most"
            )
