"""What one run's events say of it, one after the other: the row that the ledger keeps. Pure."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from jobserver.ledger.fingerprint import fingerprint

Fields = Mapping[str, str]

MOST_TEXT = 2000  # characters of a message or reason

_OF_THE_LIVING = frozenset(
    {"claimed", "completed", "failed", "canceled", "queued", "delayed", "stalled"}
)


class _Lost(NamedTuple):
    """What a run says that Redis lost: its end is told by no event, but by losses.py."""

    error_type: str
    reason: str


LOST = _Lost("Lost", "lost")


@dataclass(slots=True)
class Spent:
    """An attempt that was spent, as a row of `attempts`; times in Unix ms."""

    run: str
    number: int
    started_at: int
    ended_at: int
    worker: str | None
    outcome: str
    reason: str | None = None
    error_type: str | None = None
    error_message: str | None = None
    traceback: str | None = None
    exit_reason: str | None = None
    peak_rss: int | None = None


@dataclass(slots=True)
class Record:
    """A run as a row of `runs`; times in Unix ms."""

    run: str
    job: str
    type: str
    queue: str
    priority: str
    key: str | None = None
    owner: str | None = None
    organization: str | None = None
    trace: str | None = None
    state: str = "waiting"
    attempt: int = 0
    attempts: int = 1
    enqueued_at: int = 0
    due_at: int | None = None
    started_at: int | None = None
    ended_at: int | None = None
    wait_ms: int | None = None
    run_ms: int | None = None
    worker: str | None = None
    host: str | None = None
    result: str | None = None
    error_type: str | None = None
    error_message: str | None = None
    reason: str | None = None
    fingerprint: str | None = None
    payload: str | None = None
    purged_at: int | None = None

    def apply(self, name: str, at: int, fields: Fields, *, traceback: str = "") -> Spent | None:
        """Take one event in, which happened `at`; return the attempt that it ended.

        Of a first attempt that completed none is returned: the run says it all.
        """
        if name in _OF_THE_LIVING and (self.error_type, self.reason) == LOST:
            # It lives after all, in a Redis that was restored: what is told of it is the truth.
            self.ended_at = self.error_type = self.error_message = None
            self.reason = self.fingerprint = None
        match name:
            case "claimed":
                self._begin(at, fields)
            case "completed" | "failed" | "canceled":
                return self._end(name, at, fields, traceback)
            case "queued":
                self._wait(at, fields, state="waiting")
            case "delayed":
                self._wait(int(fields["due"]), fields, state="delayed")
            case "stalled":
                return self._lose(at, fields)
            case "retried":
                self._revive(at, fields)
            case "purged":
                self.purged_at = at
                if self.ended_at is None:  # how a run ended stays on record
                    self.state = "purged"
        return None

    def _begin(self, at: int, fields: Fields) -> None:
        self.state = "active"
        self.attempt = int(fields["attempt"])
        self.started_at = at
        self.wait_ms = max(0, at - (self.due_at or self.enqueued_at))
        self.worker = fields["worker"]

    def _end(self, name: str, at: int, fields: Fields, traceback: str) -> Spent | None:
        took = int(fields["ms"]) if "ms" in fields else None
        at = int(fields.get("ended", at))  # stock tools' ends are told later
        retry_at = int(fields.get("retry_at") or 0)
        if "attempt" in fields:
            self.attempt = int(fields["attempt"])
        if took is not None:
            self.started_at, self.run_ms = at - took, took
            self.worker = fields["worker"]
        if name == "completed":
            self.error_type = self.error_message = self.reason = self.fingerprint = None
            self.result = _result(fields.get("result", ""))
        else:
            self.error_type = fields.get("error_type") or None
            self.error_message = _short(fields.get("error_message"))
            self.reason = _short(fields.get("reason"))
        if retry_at:
            self.state = "delayed" if retry_at > at else "waiting"
            self.due_at = retry_at
        else:
            self.state, self.ended_at, self.due_at = name, at, None
        if name == "failed" and not retry_at:
            kind, message = self.error_type or "", self.error_message or ""
            self.fingerprint = fingerprint(self.type, kind, message, traceback)
        if took is None or (name == "completed" and self.attempt == 1):
            return None
        peak, _, exit_reason = fields.get("exit", "").partition(" ")  # `<MiB> <why>`
        return Spent(
            run=self.run,
            number=self.attempt,
            started_at=at - took,
            ended_at=at,
            worker=self.worker,
            outcome="retried" if retry_at else name,
            reason=self.reason,
            error_type=self.error_type,
            error_message=self.error_message,
            traceback=traceback or None,
            exit_reason=exit_reason or None,
            peak_rss=int(peak) * 1024 * 1024 if peak else None,
        )

    def _lose(self, at: int, fields: Fields) -> Spent:
        took = int(fields.get("ms", 0))
        self.attempt = int(fields["attempt"])
        self.state, self.due_at, self.run_ms = "waiting", at, took
        self.started_at = at - took
        self.worker = fields["worker"]
        self.error_type, self.error_message = "WorkerLost", "worker lost"
        self.reason = fields["reason"]
        return Spent(
            run=self.run,
            number=self.attempt,
            started_at=at - took,
            ended_at=at,
            worker=self.worker,
            outcome="lost",
            reason=self.reason,
            error_type=self.error_type,
            error_message=self.error_message,
        )

    def _wait(self, due: int, fields: Fields, *, state: str) -> None:
        self.state, self.due_at = state, due
        if "attempt" in fields:  # it was running, and the attempt is not spent
            self.attempt = int(fields["attempt"]) - 1
            self.started_at = self.wait_ms = self.worker = self.host = None
            self.reason = _short(fields.get("reason"))

    def _revive(self, at: int, fields: Fields) -> None:
        self.state, self.due_at = "waiting", at
        self.attempts = int(fields.get("attempts") or self.attempts)
        self.ended_at = self.run_ms = self.result = self.fingerprint = None
        self.error_type = self.error_message = self.reason = None


def _short(text: str | None) -> str | None:
    return text[:MOST_TEXT] if text else None


def _result(packed: str) -> str | None:
    return base64.b64decode(packed).decode(errors="replace") if packed else None
