"""What operators do with user sync: by function, by command, over HTTP."""

from __future__ import annotations

import json
import logging

import pytest
from flask import Flask
from flask.testing import FlaskClient

from jobs.records import db
from jobs.users import user_sync
from jobs.users.jobs import USER_SYNC_SCHEDULE, sync
from jobserver import JobServer, current
from jobserver.scheduler import Scheduler
from jobserver.testing import assert_enqueued, perform, work
from tests.sandbox import Sandbox

NAME = USER_SYNC_SCHEDULE.id


@pytest.fixture
def server(app: Flask, sandbox: Sandbox) -> JobServer:
    """The application's, with a directory that is as at first."""
    found: JobServer = current.server()
    return found


def run(app: Flask, *arguments: str) -> str:
    """What `flask users …` prints."""
    result = app.test_cli_runner().invoke(args=["users", *arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_the_schedule_is_initialized_once_with_the_seed_s_log_lines(
    server: JobServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "jobs.users")
    user_sync.initialize_user_sync_scheduler()
    assert caplog.messages == [
        "Initializing user sync scheduler...",
        "User sync scheduler initialized successfully",
    ]
    first = server.schedules.get(NAME)
    assert (first.entry.seconds, first.entry.misfire, first.entry.overlap) == (1200, "once", "skip")
    assert first.entry.payload == {"syncType": "incremental"}
    user_sync.initialize_user_sync_scheduler()
    assert server.schedules.get(NAME) == first
    (repeatable,) = user_sync.get_user_sync_scheduler_status().repeatable
    assert (repeatable.id, repeatable.seconds) == (NAME, 1200)


def test_pause_holds_queue_and_schedule_before_any_scheduler_ran_and_after_it_starts(
    client: FlaskClient, server: JobServer
) -> None:
    assert client.post("/jobs/pause").status_code == 200
    Scheduler(server).run(burst=True)
    assert server.schedules.get(NAME).state == "paused"
    sync.enqueue(syncType="full")
    assert work() == []
    assert client.get("/jobs/status").get_json()["data"]["counts"]["paused"] == 1
    assert client.post("/jobs/resume").status_code == 200
    assert server.schedules.get(NAME).state != "paused"
    (done,) = work()
    assert done.result["usersProcessed"] == 150


def test_a_running_sync_is_shown_and_finishes_while_paused(
    client: FlaskClient, server: JobServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def look(done: object) -> None:
        user_sync.pause_user_sync_scheduler()
        seen.append(user_sync.get_user_sync_scheduler_status())

    monkeypatch.setattr("jobs.users.jobs._report", look)
    made = client.post("/jobs/trigger/user-sync", json={"syncType": "full"})
    assert made.status_code == 202
    (done,) = work()
    assert (done.id, done.status) == (made.get_json()["jobId"], "completed")
    (active,) = seen[-1].active
    assert (active.id, active.payload) == (done.id, {"syncType": "full"})
    assert seen[-1].counts["active"] == 1


def test_the_commands_do_what_the_routes_do(app: Flask, server: JobServer) -> None:
    assert run(app, "initialize") == "User sync is scheduled.\n"
    assert "is queued" in run(app, "sync", "--full")
    assert_enqueued(sync, {"syncType": "full"})
    run(app, "pause")
    assert work() == []
    run(app, "resume")
    assert [job.status for job in work()] == ["completed"]
    run(app, "sync")
    assert_enqueued(sync, {"syncType": "incremental"})
    status = json.loads(run(app, "status"))
    assert status["counts"]["completed"] == 1
    assert status["repeatableJobs"][0]["every"] == 1_200_000
    assert run(app, "clean-up") == "0 user syncs are purged.\n"
    assert run(app, "clean-up", "--hours", "0") == "1 user syncs are purged.\n"


def test_a_command_lists_who_was_refused_and_why(
    app: Flask, server: JobServer, sandbox: Sandbox
) -> None:
    sandbox.steer("directory", malformed=["user-3", "user-9"])
    perform(sync, {"syncType": "full"})
    db.session.remove()
    assert run(app, "refused").splitlines() == [
        "user-3\t-\tusername is None, no text",
        "user-9\t-\temail is 'no address', no address",
    ]


def test_what_was_closed_opens_again_when_it_is_used(server: JobServer) -> None:
    user_sync.trigger_immediate_sync("full")
    user_sync.close_queues()
    assert server.lookout.watch("any") is None, "nobody waits here any more"
    assert [job.status for job in work()] == ["completed"]
    server.configure(server.config)
