"""Options of `rq worker` that have no meaning here are said, the others say nothing."""

from __future__ import annotations

from typing import Any

import pytest
from rq import Queue
from rq.job import Job
from rq.serializers import JSONSerializer
from rq.worker.base import DequeueStrategy

from jobserver.worker.rq_options import unused


class OwnJob(Job):
    """Somebody's job class."""


@pytest.mark.parametrize(
    ("option", "line"),
    [
        ({"default_result_ttl": 5}, "--results-ttl 5 is not used: the retention of a queue"),
        ({"maintenance_interval": 5}, "--maintenance-interval 5 is not used: "),
        ({"job_monitoring_interval": 5}, "--job-monitoring-interval 5 is not used: "),
        ({"disable_default_exception_handler": True}, "--disable-default-exception-handler "),
        ({"serializer": "pickle"}, "--serializer pickle is not used: jobs travel as JSON"),
        ({"job_class": OwnJob}, "--job-class OwnJob is not used: "),
        ({"queue_class": int}, "--queue-class int is not used: "),
        ({"dequeue_strategy": DequeueStrategy.RANDOM}, "--dequeue-strategy random is not used: "),
    ],
)
def test_an_option_without_meaning_is_said(option: dict[str, Any], line: str) -> None:
    (said,) = unused(option)
    assert said.startswith(line)


def test_what_rq_passes_unasked_is_not_said() -> None:
    defaults = {
        "default_result_ttl": 500,
        "maintenance_interval": 600,
        "job_monitoring_interval": 30,
        "disable_default_exception_handler": False,
        "serializer": "rq.serializers.DefaultSerializer",
        "job_class": Job,
        "queue_class": Queue,
        "dequeue_strategy": "default",
        "worker_ttl": 7,
    }
    assert unused(defaults) == unused({}) == []
    assert unused({"serializer": "json"}) == unused({"serializer": JSONSerializer}) == []
