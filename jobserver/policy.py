"""How jobs are treated: queues, attempts, waits between them, how long ended ones are kept."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from jobserver.errors import DeclarationInvalid

MINUTE = 60.0
HOUR = 60 * MINUTE
DAY = 24 * HOUR
CENTURY = 36525 * DAY  # the longest wait: beyond the year 9999 a time has no date
MOST = 2**31 - 1  # attempts, seconds of a timeout: timers and other programs count no further

Priority = Literal["high", "normal", "low"]
PRIORITIES: tuple[Priority, ...] = ("high", "normal", "low")
RESERVED_QUEUES = frozenset(
    {"monitoring", "stats", "status", "trigger"}
)  # they are paths of the seeds

_QUEUE_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


@dataclass(frozen=True, kw_only=True)
class Backoff:
    """Seconds to wait after a failed attempt; `factor` multiplies per attempt, `cap` limits.

    `jitter` is the share of the wait that is drawn at random (0 = none, 1 = full jitter).
    `delays` overrides the formula, its last value repeats.
    """

    delay: float = 0
    factor: float = 1
    cap: float = DAY
    jitter: float = 0
    delays: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        # Finite, because a call's own backoff travels as JSON, which has no word for infinity.
        _require(0 <= self.delay < math.inf, "delay", self.delay, "seconds ≥ 0")
        is_row = all(0 <= delay < math.inf for delay in self.delays)
        _require(is_row, "delays", self.delays, "seconds ≥ 0")
        _require(1 <= self.factor < math.inf, "factor", self.factor, "≥ 1")
        _require(0 < self.cap <= CENTURY, "cap", self.cap, "seconds > 0, a century at most")
        _require(0 <= self.jitter <= 1, "jitter", self.jitter, "0 to 1")

    def wait(self, attempt: int, *, draw: Callable[[], float] = random.random) -> float:
        """Return the seconds to wait after attempt number `attempt` (from 1) has failed."""
        if self.delays:
            seconds = self.delays[min(attempt, len(self.delays)) - 1]
        else:
            try:
                seconds = self.delay * float(self.factor) ** (attempt - 1)
            except OverflowError:
                seconds = self.cap if self.delay else 0
        seconds = min(seconds, self.cap)
        return seconds * (1 - self.jitter) + seconds * self.jitter * draw()


def exponential(delay: float, *, factor: float = 2, cap: float = DAY, jitter: float = 0) -> Backoff:
    """Wait `delay` seconds, then `factor` times longer after each further failure."""
    return Backoff(delay=delay, factor=factor, cap=cap, jitter=jitter)


def fixed(delay: float, *, jitter: float = 0) -> Backoff:
    """Wait the same number of seconds after every failure."""
    return Backoff(delay=delay, cap=max(DAY, delay), jitter=jitter)


def steps(*delays: float) -> Backoff:
    """Wait the given seconds in turn; the last one repeats."""
    _require(bool(delays), "delays", delays, "one number of seconds at least")
    return Backoff(delays=delays, cap=max(DAY, *delays))


@dataclass(frozen=True, kw_only=True)
class Retention:
    """How many ended jobs Redis keeps and for how many seconds, whichever ends first."""

    completed_count: int = 1000
    completed_age: float = DAY
    failed_count: int = 1000
    failed_age: float = 7 * DAY

    def __post_init__(self) -> None:
        for name in ("completed_count", "failed_count"):
            _require(getattr(self, name) >= 0, name, getattr(self, name), "≥ 0")
        for name in ("completed_age", "failed_age"):
            _require(getattr(self, name) >= 1, name, getattr(self, name), "≥ 1 second")


@dataclass(frozen=True, kw_only=True)
class Policy:
    """How often and how long a job of a type may run.

    `attempts` counts all runs, the first included. `timeout` is in seconds. `when_active` says what
    an enqueue with the key of an active job does: return that job, or note one more run after it.
    """

    attempts: int = 3
    backoff: Backoff = field(default_factory=lambda: exponential(2))
    timeout: int = 180
    when_active: Literal["return", "rerun"] = "return"
    retry_on: tuple[type[BaseException], ...] = (Exception,)
    no_retry_on: tuple[type[BaseException], ...] = ()

    def __post_init__(self) -> None:
        _require(_is_count(self.attempts), "attempts", self.attempts, "a whole number ≥ 1")
        _require(_is_count(self.timeout), "timeout", self.timeout, "whole seconds ≥ 1")
        _require(
            self.when_active in ("return", "rerun"),
            "when_active",
            self.when_active,
            "'return' or 'rerun'",
        )

    def retries(self, error: type[BaseException]) -> bool:
        """Return whether an attempt that ended with this kind of error may be repeated."""
        return issubclass(error, self.retry_on) and not issubclass(error, self.no_retry_on)


@dataclass(frozen=True)
class Queue:
    """A named queue and how its jobs are run and kept.

    `key` and `aliases` are other names that every route and command accepts. `concurrency` limits
    the jobs running in one worker, `global_concurrency` those in all workers together (None: no
    limit). `weight` is the queue's share when several compete for slots. A job in a child process
    that allocates beyond `memory_limit` (MiB, the app included) gets a MemoryError (Linux).
    `attempts`, `backoff` and `timeout` are those of job types without a policy of their own.
    `planned` names job types that are still to be built: enqueueing one raises NotBuilt.
    """

    name: str
    key: str | None = field(default=None, kw_only=True)
    aliases: tuple[str, ...] = field(default=(), kw_only=True)
    executor: Literal["process", "thread"] = field(default="process", kw_only=True)
    concurrency: int | None = field(default=None, kw_only=True)
    global_concurrency: int | None = field(default=None, kw_only=True)
    weight: float = field(default=1, kw_only=True)
    memory_limit: int | None = field(default=None, kw_only=True)
    retention: Retention = field(default_factory=Retention, kw_only=True)
    attempts: int | None = field(default=None, kw_only=True)
    backoff: Backoff | None = field(default=None, kw_only=True)
    timeout: int | None = field(default=None, kw_only=True)
    planned: tuple[str, ...] = field(default=(), kw_only=True)

    def __post_init__(self) -> None:
        kebab = "kebab-case, and none of " + ", ".join(sorted(RESERVED_QUEUES))
        is_name = _QUEUE_NAME.fullmatch(self.name) and self.name not in RESERVED_QUEUES
        _require(bool(is_name), "name", self.name, kebab)
        _require(
            self.executor in ("process", "thread"),
            "executor",
            self.executor,
            "'process' or 'thread'",
        )
        for name in ("aliases", "planned"):
            # A single text would count as one name per letter.
            value = getattr(self, name)
            _require(isinstance(value, tuple), name, value, "a tuple of names")
        for name in ("concurrency", "global_concurrency", "memory_limit", "attempts", "timeout"):
            value = getattr(self, name)
            accepted = "a whole number ≥ 1 or None"
            _require(value is None or _is_count(value), name, value, accepted)
        _require(self.weight > 0, "weight", self.weight, "> 0")

    def origin(self, priority: Priority = "normal") -> str:
        """Return the name of the RQ queue that holds this queue's jobs of a priority."""
        return self.name if priority == "normal" else f"{self.name}:{priority}"

    @property
    def public_key(self) -> str:
        """The key that routes print: the declared one, else one made of the name."""
        return self.key or self.name.upper().replace("-", "_")

    @property
    def public_name(self) -> str:
        """The name that the seeds' routes print: the first alias, else the name."""
        return self.aliases[0] if self.aliases else self.name

    @property
    def origins(self) -> tuple[str, ...]:
        """The three RQ queues of this queue, first to be served first."""
        return tuple(self.origin(priority) for priority in PRIORITIES)

    def overridden(self, settings: Mapping[str, float]) -> Queue:
        """Return this queue with settings from the environment (config.queue_overrides) on top."""
        counts = {
            name: int(value)
            for name, value in settings.items()
            if name in ("concurrency", "global_concurrency", "attempts", "timeout")
        }
        kept = {
            name: int(value) if name.endswith("_count") else value
            for name, value in settings.items()
            if name.startswith(("completed_", "failed_"))
        }
        return replace(
            self,
            **counts,  # type: ignore[arg-type]  # a mapping of checked field names
            retention=replace(self.retention, **kept),  # type: ignore[arg-type]
        )


def priority_of(value: Priority | int) -> Priority:
    """Return the priority word; Bull's numbers map to it: 1 to 3 high, 4 to 10 normal, else low.

    Bull knows 1 (first) to 2**21, with 0 for "none given".
    """
    if isinstance(value, str):
        _require(value in PRIORITIES, "priority", value, "high, normal, low or a whole number ≥ 0")
        return value
    is_number = isinstance(value, int) and not isinstance(value, bool) and value >= 0
    _require(is_number, "priority", value, "high, normal, low or a whole number ≥ 0")
    if value == 0 or 3 < value <= 10:
        return "normal"
    return "high" if value <= 3 else "low"


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MOST


def _require(accepted: bool, name: str, value: object, what: str) -> None:
    if not accepted:
        raise DeclarationInvalid(f"{name}={value!r} is not accepted: use {what}")
