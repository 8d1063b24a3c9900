"""`/jobs`: user sync, as the seed has it."""

import json
from datetime import UTC, datetime
from typing import Any

from flask import Blueprint, Response, jsonify, request
from marshmallow import Schema

from jobs.users import user_sync
from jobs.users.schemas import (
    CleanedUpSchema,
    CleanUpSchema,
    MessageSchema,
    SyncTriggerSchema,
    TriggeredSchema,
    UserSyncStatusSchema,
    status_body,
)
from jobserver import JobServer
from jobserver.errors import Malformed

jobs = Blueprint("user_sync", __name__, url_prefix="/jobs")

TRIGGER = SyncTriggerSchema()
CLEAN_UP = CleanUpSchema()


@jobs.get("/status")
@JobServer.describe(answers={200: UserSyncStatusSchema})
def show_status() -> Response:
    """Say how user sync stands: its schedule, its jobs by state, and those that run."""
    status = user_sync.get_user_sync_scheduler_status()
    return jsonify({"success": True, "data": status_body(status)})


@jobs.post("/trigger/user-sync")
@JobServer.idempotent
@JobServer.describe(body=SyncTriggerSchema, answers={202: TriggeredSchema})
@JobServer.needs("operator")
@JobServer.operator_action("sync.trigger", target="user-sync")
def trigger() -> tuple[Response, int]:
    """Queue a user sync now: of the users not synced lately (incremental), or of all (full)."""
    sync_type = _body(TRIGGER)["syncType"]
    job = user_sync.trigger_immediate_sync(sync_type)
    body = {
        "success": True,
        "message": f"User sync ({sync_type}) triggered successfully",
        "timestamp": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "jobId": job.id,
    }
    return jsonify(body), 202


@jobs.post("/pause")
@JobServer.describe(answers={200: MessageSchema})
@JobServer.needs("operator")
@JobServer.operator_action("queue.pause", target="user-sync")
def pause() -> Response:
    """Let no user sync start; those that run finish."""
    user_sync.pause_user_sync_scheduler()
    return jsonify({"success": True, "message": "User sync jobs paused"})


@jobs.post("/resume")
@JobServer.describe(answers={200: MessageSchema})
@JobServer.needs("operator")
@JobServer.operator_action("queue.resume", target="user-sync")
def resume() -> Response:
    """Let user syncs start again."""
    user_sync.resume_user_sync_scheduler()
    return jsonify({"success": True, "message": "User sync jobs resumed"})


@jobs.post("/cleanup")
@JobServer.describe(body=CleanUpSchema, answers={200: CleanedUpSchema})
@JobServer.needs("admin")
def clean_up() -> Response:
    """Remove the user syncs that ended before the grace period."""
    hours = _body(CLEAN_UP)["gracePeriodHours"]
    with JobServer.operator_action("queue.clean", target="user-sync") as action:
        removed = user_sync.cleanup_old_jobs(hours=hours)
        action.detail = f"{removed} jobs"
    message = f"Old jobs cleaned up (grace period: {hours:g}h)"
    return jsonify({"success": True, "message": message, "removed": removed})


def _body(schema: Schema) -> dict[str, Any]:
    """Return what the request's JSON holds, an empty body being an empty object."""
    data = request.get_data()
    try:
        values = json.loads(data) if data.strip() else {}
    except (ValueError, RecursionError) as error:
        raise Malformed(f"The body is no JSON: {error}") from None
    loaded: dict[str, Any] = schema.load(values)
    return loaded
