"""The queues that the five documents describe, as they are declared."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.application import create_app
from jobs.settings import Settings
from jobserver import JobServer, Queue, errors

DAY = 86400
DEFAULT = (1000, DAY, 1000, 7 * DAY)  # completed count and age, failed count and age
BY_COUNT = (100, DAY, 500, 7 * DAY)

# Key, the documents' name, ours; executor; jobs at once in a worker, in all; attempts, seconds
# between them, timeout (s); what is kept.
QUEUES = """
PRODUCT_SYNC        product-sync        product-sync      process  -   -  3 2,4  120
USER_DATA           user-data           user-data         thread   3   -  3 2,4  -
USER_SYNC           user-sync           user-sync         thread   -   1  3 5,25 1200
PROJECT_SYNC        project-sync        project-sync      thread   -   1  3 5,25 -
ISSUE_SYNC          issue-sync          issue-sync        thread   -   1  3 5,25 -
WHATSAPP            whatsapp-messages   whatsapp          thread   5   -  3 2,4  -
CREDIT_SCORE        credit-score        credit-score      process  2   -  3 2,4  -
ORDER_ROUTING       order-routing       order-routing     thread   3   -  3 2,4  -
PAYMENT_REMINDERS   payment-reminders   payment-reminders thread   3   -  3 2,4  -
REPORT_GENERATION   report-generation   reports           process  -   1  2 2,4  300
ORDER_PROCESSING    order-processing    order-processing  thread   5   -  3 2,4  -
DATA_SYNC           data-sync           data-sync         thread   2   -  3 2,4  300
INSIGHTS_GENERATION insights-generation insights          process  2   -  3 2,4  180
WEBHOOK_PROCESSING  webhook-processing  webhooks          thread   10  -  3 2,4  30
EMAIL_SENDING       email-sending       email             thread   10  -  3 2,4  10
ALERTS              alerts              alerts            thread   10  -  3 2,4  -
"""
RETENTION = {
    "product-sync": (100, 7 * DAY, 500, 7 * DAY),
    "user-data": DEFAULT,
    "user-sync": (10, DAY, 20, 7 * DAY),
    "project-sync": (10, DAY, 20, 7 * DAY),
    "issue-sync": (10, DAY, 20, 7 * DAY),
    "data-sync": DEFAULT,
    "insights": DEFAULT,
    "webhooks": DEFAULT,
    "email": DEFAULT,
    "alerts": DEFAULT,
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> JobServer:
    """The application's, without a Redis."""
    instance: Path = tmp_path_factory.mktemp("instance")
    app = create_app(Settings(instance_path=instance, redis_url="redis://127.0.0.1:1/0"))
    found: JobServer = app.extensions["jobserver"]
    return found


def row(queue: Queue) -> list[str]:
    waits = queue.backoff
    assert waits is not None
    values = (
        queue.public_key,
        queue.public_name,
        queue.name,
        queue.executor,
        queue.concurrency,
        queue.global_concurrency,
        queue.attempts,
        f"{waits.wait(1):g},{waits.wait(2):g}",
        queue.timeout,
    )
    return ["-" if value is None else str(value) for value in values]


def test_every_queue_is_declared_as_its_document_says(server: JobServer) -> None:
    declared = [row(queue) for queue in server.registry.queues.values()]
    assert sorted(declared) == sorted(line.split() for line in QUEUES.strip().splitlines())
    kept = {
        queue.name: (
            queue.retention.completed_count,
            queue.retention.completed_age,
            queue.retention.failed_count,
            queue.retention.failed_age,
        )
        for queue in server.registry.queues.values()
    }
    assert kept == dict.fromkeys(kept, BY_COUNT) | RETENTION


def test_every_queue_answers_to_all_its_names_in_any_case(server: JobServer) -> None:
    for line in QUEUES.strip().splitlines():
        key, seeds_name, name, *_ = line.split()
        for word in (key, seeds_name, name):
            for spelled in (word.lower(), word.upper(), word.title()):
                assert server.registry.queue(spelled).name == name


def test_every_queue_has_a_job_type_built_or_planned(server: JobServer) -> None:
    built = {job_type.queue.name for job_type in server.registry.types.values()}
    planned = {queue.name for queue in server.registry.queues.values() if queue.planned}
    assert built | planned == set(server.registry.queues)


def test_enqueueing_what_is_planned_says_so_before_anything_is_written(server: JobServer) -> None:
    for name in server.registry.planned:
        with pytest.raises(errors.NotBuilt, match=name):
            server.enqueue(name, {})
