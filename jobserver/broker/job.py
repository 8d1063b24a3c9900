"""A job as it stands in Redis: a value, read in one round trip."""

from __future__ import annotations

import base64
import binascii
import hashlib
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Any, Literal

import orjson

from jobserver.errors import ResultTooLarge
from jobserver.payload import MAX_BYTES
from jobserver.policy import PRIORITIES, Priority

Status = Literal["waiting", "delayed", "active", "completed", "failed", "canceled"]
SeedStatus = Literal["waiting", "active", "completed", "failed"]

STATUSES: Mapping[str, Status] = {
    "created": "waiting",
    "queued": "waiting",
    "ready_to_enqueue": "waiting",
    "rate_limited": "waiting",
    "deferred": "waiting",
    "scheduled": "delayed",
    "started": "active",
    "finished": "completed",
    "failed": "failed",
    "stopped": "canceled",
    "canceled": "canceled",
}
SEED_STATUSES: Mapping[Status, SeedStatus] = {
    "waiting": "waiting",
    "delayed": "waiting",
    "active": "active",
    "completed": "completed",
    "failed": "failed",
    "canceled": "failed",
}
REGISTRIES: Mapping[str, str] = {
    "active": "wip",
    "delayed": "scheduled",
    "completed": "finished",
    "failed": "failed",
    "canceled": "canceled",
}
ENVELOPE = 4096  # bytes of RQ's job data beside the payload, at most: function and type
ENDED: frozenset[Status] = frozenset({"completed", "failed", "canceled"})

# What a job's version is made of: every field that can change while somebody looks at the job.
VERSIONED = (
    "progress",
    "status",
    "run",
    "created_at",
    "origin",
    "message",
    "attempt",
    "attempts",
    "due",
    "started_at",
    "ended_at",
    "error_type",
    "error_message",
)
_VERSIONED_BYTES = tuple(name.encode() for name in VERSIONED)


@dataclass(frozen=True, kw_only=True)
class Job:
    """One job. `raw_status` is RQ's word; times are aware UTC; `progress` is 0 to 100.

    `duplicate` is True on the answer to an enqueue that found the job active. `result` is None
    until the job completed. `version` is another one whenever something of it has changed; "" where
    the job was not read from Redis. `trace` is the id of the request or the trace of the job that
    made it, its own run's where there was none. Of the `source` ledger it is what its last run left
    there.
    """

    id: str
    run_id: str
    type: str
    queue: str
    priority: Priority = "normal"
    status: Status = "waiting"
    raw_status: str = "queued"
    progress: float = 0
    message: str = ""
    attempt: int = 0
    attempts: int = 1
    key: str | None = None
    owner: str | None = None
    trace: str = ""
    payload: Any = None
    created_at: datetime | None = None
    enqueued_at: datetime | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    due_at: datetime | None = None
    result: Any = None
    error_type: str | None = None
    error_message: str | None = None
    worker: str | None = None
    duplicate: bool = False
    version: str = ""
    source: Literal["redis", "ledger"] = "redis"

    @property
    def seed_status(self) -> SeedStatus:
        """The seeds' word for the status; their clients poll until completed or failed."""
        return SEED_STATUSES[self.status]

    @property
    def failed_reason(self) -> str | None:
        """Why the job failed, None if it did not: the error's message, or `canceled`."""
        if self.status == "canceled":
            return "canceled"
        if self.status != "failed":
            return None
        return self.error_message or self.error_type or "unknown"

    @property
    def duration_ms(self) -> int | None:
        """How long the last attempt ran, None for a job that has not ended or never ran."""
        if self.started_at is None or self.ended_at is None:
            return None
        return max(0, round((self.ended_at - self.started_at).total_seconds() * 1000))

    @property
    def is_ended(self) -> bool:
        """Whether nothing more happens to this run unless it is retried."""
        return self.status in ENDED


def envelope(
    function: str, type_name: str, payload: bytes, *, scheduled_at: float | None = None
) -> str:
    """Return RQ's job data (function, instance, args, kwargs) as JSON around a JSON payload.

    `scheduled_at` is the Unix time that a tick's job was due for.
    """
    options = "" if scheduled_at is None else f'"scheduled_at":{scheduled_at:.3f}'
    return f'["{function}",null,["{type_name}",{payload.decode()}],{{{options}}}]'


def payload_of(data: bytes | str) -> tuple[str, Any]:
    """Return function name and payload of RQ's job data; raises ValueError as `call_of` does."""
    function, arguments, _ = call_of(data)
    return function, arguments[1] if len(arguments) > 1 else None


def scheduled_time(options: Mapping[str, Any]) -> datetime | None:
    """Return the time that a job was due for, from the keyword arguments of RQ's job data.

    None for a job that no recurring entry made.
    """
    moment = options.get("scheduled_at")
    return datetime.fromtimestamp(moment, tz=UTC) if isinstance(moment, int | float) else None


def call_of(data: bytes | str) -> tuple[str, list[Any], dict[str, Any]]:
    """Return function name and arguments of RQ's job data, read as JSON and as nothing else.

    Raises ValueError for what is not JSON of that shape: a pickle is never loaded.
    """
    raw = data.encode() if isinstance(data, str) else data
    if raw[:1] == b"\x78":  # RQ's own code writes data compressed
        try:
            raw = unpacked(raw, most=MAX_BYTES + ENVELOPE)
        except zlib.error as error:
            raise ValueError("the job's data is damaged") from error
    try:
        function, _, arguments, options = orjson.loads(raw)
        return str(function), list(arguments), dict(options)
    except (orjson.JSONDecodeError, TypeError, ValueError, KeyError) as error:
        raise ValueError("the job's data is not JSON of this job server") from error


def from_hash(
    job_id: str, raw: Mapping[bytes, bytes], result: Mapping[bytes, bytes] | None = None
) -> Job:
    """Return the job that a hash and the last entry of its result stream describe."""
    fields = {name.decode(): value for name, value in raw.items()}

    def text(name: str) -> str:
        return fields.get(name, b"").decode(errors="replace")

    raw_status = text("status") or "created"
    status = STATUSES.get(raw_status, "waiting")
    queue, priority = queue_of(text("origin"))
    try:
        _, (type_name, payload, *_), _ = call_of(fields.get("data", b""))
    except ValueError:
        type_name, payload = text("description"), None
    done = status == "completed"
    return Job(
        id=job_id,
        run_id=text("run"),
        type=text("type") or str(type_name),
        queue=queue,
        priority=priority,
        status=status,
        raw_status=raw_status,
        progress=100 if done else float(text("progress") or 0),
        message=text("message"),
        attempt=int(text("attempt") or 0),
        attempts=int(text("attempts") or 1),
        key=text("key") or None,
        owner=text("owner") or None,
        trace=text("trace") or text("run"),
        payload=payload,
        created_at=_time(text("created_at")),
        enqueued_at=_time(text("enqueued_at")),
        started_at=_time(text("started_at")),
        ended_at=_time(text("ended_at")),
        due_at=_due(text("due")) if status == "delayed" else None,
        result=return_value(result) if done and result else None,
        error_type=None if done else text("error_type") or None,
        error_message=None if done else text("error_message") or None,
        worker=text("worker_name") or None,
        version=version_of([raw.get(name) for name in _VERSIONED_BYTES]),
    )


def version_of(values: Sequence[bytes | None]) -> str:
    """Return the version of a job whose VERSIONED fields these are, in that order.

    Progress within one per cent is none: that is what is shown.
    """
    percent = b"%d" % float(values[0] or 0)
    parts = b"\x1f".join((percent, *(value or b"" for value in values[1:])))
    return hashlib.blake2b(parts, digest_size=12).hexdigest()


@cache
def queue_of(origin: str) -> tuple[str, Priority]:
    """Return queue and priority of an RQ queue's name."""
    queue, _, priority = origin.partition(":")
    return queue, priority if priority in PRIORITIES else "normal"


def return_value(entry: Mapping[bytes, bytes]) -> Any:
    """Return what the run returned, from an entry of RQ's result stream."""
    encoded = entry.get(b"return_value")
    if encoded is None:
        return None
    try:
        return orjson.loads(base64.b64decode(encoded))
    except (ValueError, binascii.Error):
        return None


def traceback_text(entry: Mapping[bytes, bytes]) -> str | None:
    """Return the traceback of a failed attempt, from an entry of RQ's result stream."""
    encoded = entry.get(b"exc_string")
    if not encoded:
        return None
    try:
        return unpacked(base64.b64decode(encoded), most=MAX_BYTES).decode(errors="replace")
    except ValueError as error:
        return f"({error})"


def utf8(text: str) -> bytes:
    """Return any text of a job's as UTF-8; what a strict encoder refuses is escaped.

    An OSError over a file name that is no UTF-8 has such a text (PEP 383).
    """
    return text.encode(errors="backslashreplace")


def unpacked(data: bytes, *, most: int) -> bytes:
    """Return what zlib packed; raises zlib.error, and ValueError beyond `most` bytes.

    A few bytes can stand for gigabytes: no more is unpacked than is accepted.
    """
    unpacker = zlib.decompressobj()
    raw = unpacker.decompress(data, most + 1)
    if len(raw) > most:
        raise ValueError(f"it has more than {most} bytes unpacked")
    if not unpacker.eof:
        raise zlib.error("it ends too early")
    return raw


def packed_traceback(text: str) -> str:
    """Return a traceback as RQ's result stream holds it."""
    return base64.b64encode(zlib.compress(utf8(text))).decode()


def packed_value(value: bytes) -> str:
    """Return a JSON result as RQ's result stream holds it; raises ResultTooLarge."""
    if len(value) > MAX_BYTES:
        raise ResultTooLarge(
            f"The result has {len(value)} bytes; at most {MAX_BYTES} are kept: return where it lies"
        )
    return base64.b64encode(value).decode()


def shown_value(packed: str, *, most: int = 60) -> str:
    """Return a packed result for a log line: its first bytes, and its size when there are more."""
    size = len(packed) // 4 * 3 - packed.count("=", -2)
    text = base64.b64decode(packed[: most // 3 * 4]).decode(errors="replace")
    return text if size <= most else f"{text}… ({size} bytes)"


def _time(text: str) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


def _due(text: str) -> datetime | None:
    return datetime.fromtimestamp(int(text) / 1000, tz=UTC) if text else None
