"""The job types of product sync, run by the engine."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from flask import Flask
from redis import Redis
from sqlalchemy import update

from jobs.follows import jobs as sync_jobs
from jobs.follows import sync
from jobs.follows.jobs import resync_follows, sync_products
from jobs.follows.status import get_sync_status, sync_job_id
from jobs.follows.sync_queue import clean, get_failed, queue_product_sync, retry
from jobs.queues import DAY, PRODUCT_SYNC
from jobs.records import Follow, FollowMode, FollowStatus, writing
from jobserver import current, errors, steps
from jobserver.testing import assert_enqueued, enqueued, perform, work
from tests.jobs.shops import a_product, make_follow, make_shop, products_of, stock_shop


@pytest.fixture
def source(app: Flask) -> int:
    """A shop with three products."""
    shop = make_shop("Source")
    stock_shop(shop, [a_product(number) for number in range(3)])
    return shop


@pytest.fixture
def follow(source: int) -> int:
    """A follow of that shop."""
    return make_follow(make_shop("Follower"), source)


def test_a_queued_sync_runs_with_the_seed_s_log_lines(
    follow: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    job = queue_product_sync(follow)
    work()
    assert [message for message in caplog.messages if "[SyncQueue]" in message] == [
        f"[SyncQueue] Queued product sync job for follow {follow}",
        f"[SyncQueue] Starting product sync for follow {follow}",
        f"[SyncQueue] Completed product sync for follow {follow}",
        f"[SyncQueue] Job {job.id} completed successfully - synced: 3, errors: 0",
    ]
    status = get_sync_status(follow)
    assert (status.status, status.progress, status.job_id) == ("completed", 100, job.id)
    assert status.results == {"synced": 3, "skipped": 0, "errors": 0}


def test_the_policy_is_the_seed_s() -> None:
    policy = sync_products.policy
    assert (policy.attempts, policy.timeout) == (3, 120)
    assert [policy.backoff.wait(attempt) for attempt in (1, 2)] == [2, 4]
    retention = PRODUCT_SYNC.retention
    assert (retention.completed_count, retention.failed_count) == (100, 500)
    assert retention.failed_age == 7 * DAY


def test_the_shops_are_checked_when_they_are_given(follow: int, source: int) -> None:
    with pytest.raises(errors.PayloadInvalid, match="source_shop_id"):
        queue_product_sync(follow, source_shop_id=source + 100)
    assert enqueued() == []
    assert not queue_product_sync(follow, source_shop_id=source).duplicate
    assert queue_product_sync(follow, source_shop_id=source).duplicate


def test_an_unknown_follow_is_not_queued(app: Flask) -> None:
    with pytest.raises(errors.NotFound, match="999"):
        queue_product_sync(999)


@pytest.mark.parametrize("payload", [{}, {"follow_id": "1"}, {"follow_id": 0}, {"x": 1}])
def test_a_wrong_payload_is_refused(app: Flask, payload: dict[str, Any]) -> None:
    with pytest.raises(errors.PayloadInvalid):
        current.server().enqueue("follows.sync_products", payload)


def test_a_follow_that_copies_nothing_fails_at_once_and_is_not_retried(source: int) -> None:
    monitor = make_follow(make_shop("Watcher"), source, mode=FollowMode.MONITOR)
    sync_products.enqueue(follow_id=monitor)
    (job,) = work()
    assert (job.status, job.attempt) == ("failed", 1)
    assert "only monitors" in (job.error_message or "")


def test_a_failed_sync_is_listed_retried_and_cleaned(
    follow: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise ConnectionError("the source is away")

    server = current.server()
    with monkeypatch.context() as patch:
        patch.setattr(sync_jobs, "sync_all_products_for_follow", refuse)
        server.enqueue(sync_products, {"follow_id": follow}, attempts=1)
        work()
    status = get_sync_status(follow)
    assert status.status == "failed"
    assert status.failed_reason == "the source is away"
    (failed,) = get_failed()
    assert failed.id == sync_job_id(follow)
    assert clean() == 0  # it has not failed for seven days
    retry(failed.id)
    assert get_failed() == []
    work()
    assert get_sync_status(follow).status == "completed"
    with pytest.raises(errors.WrongState):
        retry(failed.id)
    server.enqueue(sync_products, {"follow_id": 999_999}, attempts=1)
    work()
    assert clean(older_than=0) == 1
    assert get_failed() == []


def test_attempts_of_one_run_count_together(
    follow: int, source: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    stock_shop(source, [a_product(number) for number in range(25)])
    remember = sync._remember

    def fail_once(*arguments: Any) -> None:
        monkeypatch.setattr(sync, "_remember", remember)
        raise ConnectionError

    monkeypatch.setattr(sync, "_remember", fail_once)
    server = current.server()
    server.enqueue(sync_products, {"follow_id": follow}, attempts=2, backoff=steps(0))
    work()
    assert get_sync_status(follow).results == {"synced": 25, "skipped": 0, "errors": 0}


def test_every_active_resell_follow_is_synced_again_premium_shops_first(
    source: int, redis: Redis
) -> None:
    free = make_follow(make_shop("Free"), source)
    premium = make_follow(make_shop("Premium", plan="premium"), source)
    paused = make_follow(make_shop("Paused"), source)
    make_follow(make_shop("Watcher"), source, mode=FollowMode.MONITOR)
    with writing() as session:
        session.execute(
            update(Follow).where(Follow.id == paused).values(status=FollowStatus.PAUSED)
        )
    assert perform(resync_follows) == {"enqueued": 2, "active": 0}
    assert perform(resync_follows) == {"enqueued": 0, "active": 2}
    fresh = make_follow(make_shop("Fresh"), source)
    queue_product_sync(fresh)
    assert_enqueued(sync_products, count=3)
    assert [job.id for job in work()] == [
        sync_job_id(premium),
        sync_job_id(fresh),
        sync_job_id(free),
    ]


def test_the_recurring_entry_comes_by_the_settings(app: Flask) -> None:
    server = current.server()
    entry = server.registry.entries["follows-resync"]
    assert entry.job is resync_follows
    assert entry.seconds == 6 * 60 * 60
    assert getattr(server.config, entry.setting or "") == 6


def test_progress_and_the_pause_of_tests_reach_the_sync(
    follow: int, source: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    stock_shop(source, [a_product(number) for number in range(25)])
    seen: list[float] = []
    monkeypatch.setattr(sync_jobs, "progress", lambda percent, message: seen.append(percent))
    perform(sync_products, {"follow_id": follow})
    assert seen[0] == 0
    assert seen[-1] == 100
    assert len(products_of(source)) == 25
