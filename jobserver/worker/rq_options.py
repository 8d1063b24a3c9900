"""Options of `rq worker` that have no meaning here: each is said in a line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rq import Queue
from rq.defaults import (
    DEFAULT_JOB_MONITORING_INTERVAL,
    DEFAULT_MAINTENANCE_TASK_INTERVAL,
    DEFAULT_RESULT_TTL,
    DEFAULT_SERIALIZER_CLASS,
)
from rq.job import Job
from rq.serializers import JSONSerializer

_JSON = f"{JSONSerializer.__module__}.{JSONSerializer.__qualname__}"

# By RQ's parameter: its option, the values that say nothing, and why another is not used.
_OPTIONS: Mapping[str, tuple[str, tuple[Any, ...], str]] = {
    "default_result_ttl": (
        "--results-ttl",
        (DEFAULT_RESULT_TTL,),
        "the retention of a queue says how long its ended jobs are kept",
    ),
    "maintenance_interval": (
        "--maintenance-interval",
        (DEFAULT_MAINTENANCE_TASK_INTERVAL,),
        "lost jobs are looked for each third of LEASE_SECONDS, old ones each minute",
    ),
    "job_monitoring_interval": (
        "--job-monitoring-interval",
        (DEFAULT_JOB_MONITORING_INTERVAL,),
        "running jobs are looked after each third of LEASE_SECONDS",
    ),
    "disable_default_exception_handler": (
        "--disable-default-exception-handler",
        (False,),
        "a failed job is always recorded as failed",
    ),
    "serializer": (
        "--serializer",
        (DEFAULT_SERIALIZER_CLASS, "json", _JSON, JSONSerializer),
        "jobs travel as JSON, a pickle is never read",
    ),
    "job_class": ("--job-class", (Job,), "jobs are read by the engine itself"),
    "queue_class": ("--queue-class", (Queue,), "queues are served by the engine itself"),
    "dequeue_strategy": (
        "--dequeue-strategy",
        ("default", "round_robin"),
        "queues take turns by their weight",
    ),
}


def unused(options: Mapping[str, Any]) -> list[str]:
    """Return a line per option that was given and is not used."""
    return [
        f"{name} {_shown(options[parameter])} is not used: {why}"
        for parameter, (name, silent, why) in _OPTIONS.items()
        if options.get(parameter) is not None and options[parameter] not in silent
    ]


def _shown(value: Any) -> str:
    return value.__qualname__ if isinstance(value, type) else str(getattr(value, "value", value))
