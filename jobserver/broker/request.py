"""An enqueue as it travels: into the script now, or through the outbox later."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

from jobserver.broker.job import Job


@dataclass(frozen=True, kw_only=True, slots=True)
class EnqueueRequest:
    """One job to be created; the fields are the script's arguments, in its order.

    `call` names this request for good: repeated, it gets the first answer. `data` is RQ's job data.
    `trace` is what set it off, "" for nothing known.
    `due` is "" for now, "+<ms>" from the moment it reaches Redis, or Unix ms.
    """

    id: str
    call: str
    run: str
    type: str
    origin: str
    data: str
    timeout: int
    attempts: int
    due: str = ""
    key: str = ""
    owner: str = ""
    backoff: str = ""
    limit_key: str = ""
    when_active: str = "return"
    trace: str = ""

    def arguments(self) -> tuple[str | int, ...]:
        """Return the fields in the order that enqueue.lua reads them."""
        return (
            self.id,
            self.call,
            self.run,
            self.type,
            self.origin,
            self.data,
            self.timeout,
            self.attempts,
            self.due,
            self.key,
            self.owner,
            self.backoff,
            self.limit_key,
            self.when_active,
            self.trace,
        )

    def to_json(self) -> str:
        """Return the request as JSON text."""
        return orjson.dumps(self).decode()

    @classmethod
    def from_json(cls, text: str | bytes) -> EnqueueRequest:
        """Return the request that a JSON text holds."""
        fields: dict[str, Any] = orjson.loads(text)
        return cls(**fields)


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What became of a request: `word` is new, duplicate, rerun (noted to follow) or conflict.

    `run` names the run that will do it (for a conflict: the type that holds the id); `raw_status`
    is RQ's status of the job. `held` is the active job that a duplicate met, None when only the
    first answer of a repeated call is known.
    """

    word: str
    run: str
    raw_status: str
    held: Job | None = None
