"""User sync against the sandbox's directory, on both databases."""

from __future__ import annotations

import logging
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import select, update

from jobs.gateways.errors import VendorUnavailable
from jobs.records import SyncRun, User, db, writing
from jobs.records.errors import SyncOvertaken
from jobs.records.sync_run import advance_sync, begin_sync
from jobs.users import user_sync
from jobs.users.jobs import USER_SYNC_SCHEDULE, sync
from jobs.users.sync import due_before, sync_users
from jobserver import Job, current, exponential, steps
from jobserver.testing import perform, work
from tests.sandbox import Sandbox

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
EVERY = timedelta(minutes=20)


@pytest.fixture(autouse=True)
def at_first(app: Flask, sandbox: Sandbox) -> None:
    """Every test finds no users, and a directory that is as at first."""


def users() -> dict[str, User]:
    """All users by the directory's id."""
    db.session.rollback()
    return {user.directory_id: user for user in db.session.scalars(select(User))}


def counts(result: Any) -> tuple[int, int, int]:
    """What a result says was processed, updated, refused."""
    return (result["usersProcessed"], result["usersUpdated"], result["errors"])


def full(**payload: Any) -> Any:
    return perform(sync, {"syncType": "full", **payload})


def incremental(**payload: Any) -> Any:
    return perform(sync, {"syncType": "incremental", **payload})


def let_pass(age: timedelta) -> None:
    """Let every user have been synced that much earlier."""
    with writing() as session:
        for user in session.scalars(select(User).where(User.last_synced.is_not(None))):
            assert user.last_synced is not None
            user.last_synced -= age


def asked(sandbox: Sandbox) -> list[tuple[int, dict[str, str]]]:
    """The status and the query of each request to the directory."""
    return [(one["status"], one["query"]) for one in sandbox.requests()]


def end_of(job: Job) -> Job:
    """Work until the job has ended; its waits are of a second or two here."""
    server = current.server()
    deadline = time.monotonic() + 20
    while not server.fetch(job.id).is_ended:
        assert time.monotonic() < deadline
        work()
    return server.fetch(job.id)


def test_a_full_sync_runs_with_the_seed_s_result_and_log_lines(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, "jobs.users")
    before = datetime.now(UTC)
    job = sync.enqueue(syncType="full")
    (done,) = work()
    assert (done.status, done.progress) == ("completed", 100)
    result = done.result
    assert set(result) == {
        *("success", "usersProcessed", "usersUpdated", "errors", "duration", "timestamp")
    }
    assert result["success"] is True
    assert counts(result) == (150, 150, 0)
    assert before <= datetime.fromisoformat(result["timestamp"]) <= datetime.now(UTC)
    assert 0 < result["duration"] <= 20_000
    lines = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert [line for line in lines if "User synced" not in line[1]] == [
        ("INFO", f"Starting user sync job (jobId: {job.id}, syncType: full)"),
        ("INFO", "Users to sync (totalUsers: 150)"),
        ("DEBUG", "Processing user batch (batchSize: 100, skip: 0)"),
        ("DEBUG", "Processing user batch (batchSize: 100, skip: 100)"),
        (
            "INFO",
            "User sync job completed successfully\n  - usersProcessed: 150\n"
            f"  - usersUpdated: 150\n  - errors: 0\n  - duration: {result['duration']}ms",
        ),
    ]
    found = users()
    assert len(found) == 150
    one = found["user-1"]
    assert (
        "DEBUG",
        f"User synced successfully (userId: user-1, username: {one.username})",
    ) in lines
    assert (one.email, one.active, one.sync_error) == ("user1@directory.example", True, None)
    assert all((one.username, one.first_name, one.last_name, one.title, one.department))
    assert one.changed_at is not None
    assert before <= (one.last_synced or before) == one.updated_at


def test_the_policy_and_the_schedule_are_the_seed_s(app: Flask) -> None:
    policy, queue = sync.policy, sync.queue
    assert (policy.attempts, policy.backoff) == (3, exponential(5, factor=5))
    assert [policy.backoff.wait(attempt) for attempt in (1, 2)] == [5, 25]
    assert (queue.retention.completed_count, queue.retention.failed_count) == (10, 20)
    assert queue.global_concurrency == 1
    assert USER_SYNC_SCHEDULE.seconds == 20 * 60
    assert getattr(current.server().config, USER_SYNC_SCHEDULE.setting or "") == 20


def test_a_full_sync_adds_updates_and_deactivates(sandbox: Sandbox) -> None:
    sandbox.steer("directory", users=230)
    assert counts(full()) == (230, 230, 0)
    sandbox.steer(
        "directory",
        users=240,
        removed=["user-7", "user-230"],
        deactivated=["user-8"],
        changed={"user-9": {"department": "Søren's", "email": "new@directory.example"}},
    )
    assert counts(full(batchSize=60)) == (240, 240, 0)
    found = users()
    assert len(found) == 240
    assert {name for name, one in found.items() if not one.active} == {
        *("user-7", "user-8", "user-230")
    }
    assert found["user-9"].department == "Søren's"
    assert found["user-9"].email == "new@directory.example"
    assert counts(full()) == (238, 238, 0), "who has left already is not met again"


def test_malformed_users_are_counted_and_kept_and_stop_nobody(
    sandbox: Sandbox, caplog: pytest.LogCaptureFixture
) -> None:
    full()
    before = users()["user-10"]
    synced, username = before.last_synced, before.username
    new = ["user-151", "user-152"]
    sandbox.steer(
        "directory",
        users=155,
        malformed=["user-10", "user-20", "user-30", "user-150", *new],
        changed={
            "user-40": {"id": None},
            "user-50": {"id": "user-51"},
            "user-60": {"title": "x" * 256},
            "user-61": {"firstName": "zero \0"},
            "user-62": {"lastName": 7},
            "user-63": {"updatedAt": "2026-01-01T00:00:00"},
            "user-64": {"updatedAt": "0001-01-01T00:00:00+23:00"},
        },
    )
    assert counts(full()) == (155, 155 - 13, 13)
    found = users()
    assert len(found) == 155
    assert found["user-10"].sync_error == "username is None, no text"
    assert (found["user-10"].username, found["user-10"].active) == (username, True)
    assert found["user-10"].last_synced == synced
    reasons = {one.directory_id: one.sync_error for one in found.values() if one.sync_error}
    assert set(reasons) == {
        *("user-10", "user-20", "user-30", "user-150", "user-151", "user-152"),
        *("user-51", "user-60", "user-61", "user-62", "user-63", "user-64"),
    }
    assert reasons["user-20"] == "email is 'no address', no address"
    assert reasons["user-30"] == "active is 'perhaps', neither true nor false"
    assert (reasons["user-150"] or "").startswith("updatedAt is 'yesterday', no time")
    assert reasons["user-51"] == "its id stands twice on a page"
    assert (found["user-151"].username, found["user-151"].active) == (None, False)
    assert found["user-40"].active, "nobody is taken for gone while somebody has no id"
    (run,) = db.session.scalars(select(SyncRun).where(SyncRun.errors == 13))
    assert [None, "id is None, no text"] in [list(one) for one in run.refusals]
    assert "User not synced (userId: user-10): username is None, no text" in caplog.messages
    sandbox.steer("directory")
    assert counts(full()) == (153, 153, 0), "the three good ones above 150 are gone now"
    assert {one.sync_error for one in users().values() if one.active} == {None}


def test_a_tick_takes_who_was_synced_at_an_earlier_one() -> None:
    full()
    times = {
        "never": None,
        "long-ago": NOON - timedelta(days=9),
        "at-the-last-tick": NOON,
        "just-after-it": NOON + timedelta(seconds=5),
        "nearer-to-it": NOON + timedelta(minutes=9, seconds=59),
        "nearer-to-this-one": NOON + timedelta(minutes=10, seconds=1),
        "just-now": NOON + timedelta(minutes=19, seconds=59),
        "since": NOON + timedelta(minutes=20, seconds=1),
    }
    with writing() as session:
        session.execute(update(User).values(last_synced=NOON + timedelta(minutes=19)))
        for number, (name, last_synced) in enumerate(times.items(), 1):
            session.execute(
                update(User)
                .where(User.directory_id == f"user-{number}")
                .values(last_synced=last_synced, title=name)
            )
    done = sync_users("incremental", batch_size=100, every=EVERY, scheduled_at=NOON + EVERY)
    assert (done.processed, done.total, done.errors) == (5, 5, 0)
    assert {one.title for one in users().values()} & set(times) == {
        *("nearer-to-this-one", "just-now", "since")
    }


def test_an_incremental_sync_by_hand_takes_who_was_not_synced_for_twenty_minutes(
    sandbox: Sandbox,
) -> None:
    assert due_before(EVERY) <= datetime.now(UTC) - EVERY
    full()
    let_pass(timedelta(minutes=19))
    assert counts(incremental()) == (0, 0, 0)
    let_pass(timedelta(minutes=1, seconds=1))
    sandbox.steer("directory", users=500, removed=["user-3"], malformed=["user-4"])
    assert counts(incremental(batchSize=50)) == (150, 149, 1), "it adds nobody"
    found = users()
    assert len(found) == 150
    assert (found["user-3"].active, found["user-4"].active) == (False, True)
    assert found["user-4"].sync_error
    assert all(len(query["ids"].split(",")) == 50 for _, query in asked(sandbox))
    assert counts(incremental()) == (1, 0, 1), "only the malformed one is due still"
    let_pass(EVERY)
    sandbox.steer("directory", removed=["user-5"], changed={"user-6": {"id": None}})
    assert counts(incremental()) == (149, 148, 1)
    assert users()["user-5"].active, "who is missing may be the one without an id"


def test_a_job_of_the_schedule_is_measured_against_its_tick() -> None:
    user_sync.initialize_user_sync_scheduler()
    full()
    let_pass(timedelta(minutes=11))
    assert counts(incremental()) == (0, 0, 0), "by hand it takes twenty minutes"
    current.server().schedules.trigger(USER_SYNC_SCHEDULE.id)
    (done,) = work()
    assert counts(done.result) == (150, 150, 0)


def test_a_sync_is_remembered_for_thirty_days() -> None:
    for days in (29, 31):
        begin_sync(f"{days} days old", kind="users full")
        with writing() as session:
            session.execute(
                update(SyncRun)
                .where(SyncRun.run == f"{days} days old")
                .values(started_at=datetime.now(UTC) - timedelta(days=days))
            )
    begin_sync("new", kind="users full")
    assert set(db.session.scalars(select(SyncRun.run))) == {"29 days old", "new"}


def test_what_has_not_changed_is_not_sent_again(sandbox: Sandbox) -> None:
    full()
    for expected in ([200, 200], [304, 304]):
        let_pass(EVERY)
        sandbox.steer("directory")
        assert counts(incremental()) == (150, 150, 0)
        assert [status for status, _ in asked(sandbox)] == expected
    assert all(datetime.now(UTC) - (one.last_synced or NOON) < EVERY for one in users().values())
    let_pass(EVERY)
    sandbox.steer("directory", changed={"user-120": {"title": "Queen"}})
    assert counts(incremental()) == (150, 150, 0)
    assert all(one["if_none_match"] for one in sandbox.requests())
    assert [status for status, _ in asked(sandbox)] == [304, 200]
    assert users()["user-120"].title == "Queen"
    let_pass(EVERY)
    sandbox.steer("directory", malformed=["user-1"])
    assert counts(incremental(batchSize=60)) == (150, 149, 1)
    assert not any(one["if_none_match"] for one in sandbox.requests()), "other questions"
    let_pass(EVERY)
    assert counts(incremental()) == (150, 149, 1)
    let_pass(EVERY)
    assert counts(incremental()) == (150, 149, 1), "an error counts as often as it is met"


def test_too_many_requests_wait_as_told_and_spend_no_attempt(sandbox: Sandbox) -> None:
    sandbox.steer("directory", faults={"rate": {"requests": 4, "seconds": 1}})
    job = sync.enqueue(syncType="full", batchSize=25)
    (held,) = work()
    assert (held.status, held.attempt) == ("delayed", 0)
    done = end_of(job)
    assert (done.status, done.attempt) == ("completed", 1)
    assert counts(done.result) == (150, 150, 0)
    statuses = [status for status, _ in asked(sandbox)]
    assert statuses.count(200) == 6, "no page is read twice"
    assert 429 in statuses
    assert len(users()) == 150


def test_errors_in_the_middle_are_tried_again_from_the_last_batch(sandbox: Sandbox) -> None:
    sandbox.steer("directory", malformed=["user-1"], faults={"after": 3, "errors": 2})
    job = current.server().enqueue(
        sync, {"syncType": "full", "batchSize": 25}, backoff=steps(0), attempts=3
    )
    done = end_of(job)
    assert (done.status, done.attempt) == ("completed", 3)
    assert counts(done.result) == (150, 149, 1)
    assert [status for status, _ in asked(sandbox)] == [200, 200, 200, 500, 500, 200, 200, 200]
    assert len(users()) == 150


def test_a_directory_that_stays_broken_fails_the_job_and_a_retry_goes_on(
    sandbox: Sandbox,
) -> None:
    sandbox.steer("directory", faults={"after": 2, "errors": 1000, "status": 503})
    server = current.server()
    job = server.enqueue(sync, {"syncType": "full", "batchSize": 50}, backoff=steps(0), attempts=3)
    failed = end_of(job)
    assert (failed.status, failed.attempt) == ("failed", 3)
    assert "answered 503" in (failed.error_message or "")
    assert len(users()) == 100
    sandbox.steer("directory")
    server.retry(job.id)
    assert counts(end_of(job).result) == (150, 150, 0)
    assert len(asked(sandbox)) == 1


def test_a_wrong_token_fails_at_once_and_is_not_told(
    app: Flask, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    server = current.server()
    settings = server.config
    assert settings.directory_token == sandbox.token  # type: ignore[attr-defined]
    object.__setattr__(settings, "directory_token", "S3CR3T-t0ken")
    try:
        sync.enqueue(syncType="full")
        (failed,) = work()
    finally:
        object.__setattr__(settings, "directory_token", sandbox.token)
    assert (failed.status, failed.attempt) == ("failed", 1)
    assert "answered 401" in (failed.error_message or "")
    assert "S3CR3T" not in caplog.text + repr(settings) + str(failed)


def test_an_empty_directory_deactivates_nobody(sandbox: Sandbox) -> None:
    full()
    sandbox.steer("directory", users=0)
    with pytest.raises(VendorUnavailable, match="not a single user"):
        full()
    assert all(one.active for one in users().values())


def test_a_sync_that_ended_is_not_done_again(sandbox: Sandbox) -> None:
    first = sync_users("full", batch_size=100, every=EVERY, run="a")
    sandbox.steer("directory")
    assert sync_users("full", batch_size=100, every=EVERY, run="a") == first
    assert asked(sandbox) == []


def test_of_two_attempts_of_one_sync_the_slower_one_writes_nothing() -> None:
    frozen = begin_sync("a", kind="users full")
    sync_users("full", batch_size=50, every=EVERY, run="a")
    with pytest.raises(SyncOvertaken), writing() as session:
        session.execute(update(User).values(username="stale"))
        advance_sync(session, frozen, cursor="x", processed=50)
    assert "stale" not in {one.username for one in users().values()}
    done = db.session.get_one(SyncRun, "a", populate_existing=True)
    assert (done.processed, done.batches) == (150, 3)
