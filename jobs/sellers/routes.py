"""`/app/job-status`: how the fetching of users' data stands, as the seed has it."""

from collections.abc import Sequence

from flask import Blueprint, Response, jsonify, request

from jobs.sellers import job_status
from jobs.sellers.schemas import (
    JobStatusAnswerSchema,
    JobStatusListSchema,
    LimitSchema,
    UserDataStatsSchema,
    job_status_body,
)
from jobserver import Job, JobServer

status = Blueprint("job_status", __name__, url_prefix="/app/job-status")

LIMIT = LimitSchema(unknown="exclude")


@status.get("/status/user/<user_id>")
@JobServer.describe(answers={200: JobStatusAnswerSchema}, errors=(410,))
def show_user(user_id: str) -> Response:
    """Show the latest job of a user."""
    return jsonify({"success": True, "data": job_status_body(job_status.get_user_status(user_id))})


@status.get("/status/job/<job_id>")
@JobServer.describe(answers={200: JobStatusAnswerSchema}, errors=(410,))
def show_job(job_id: str) -> Response:
    """Show one job."""
    return jsonify({"success": True, "data": job_status_body(job_status.get_job(job_id))})


@status.get("/recent")
@JobServer.describe(query=LimitSchema, answers={200: JobStatusListSchema})
def list_recent() -> Response:
    """List what started last, the newest first."""
    return _listing(job_status.get_recent(**LIMIT.load(request.args)))


@status.get("/queue/stats")
@JobServer.describe(answers={200: UserDataStatsSchema})
def show_statistics() -> Response:
    """Count the jobs by state."""
    return jsonify({"success": True, "data": job_status.get_queue_stats()})


@status.get("/failed")
@JobServer.describe(query=LimitSchema, answers={200: JobStatusListSchema})
def list_failed() -> Response:
    """List the jobs that failed and have not run since, the newest first."""
    return _listing(job_status.get_failed(**LIMIT.load(request.args)))


def _listing(found: Sequence[Job]) -> Response:
    data = [job_status_body(job) for job in found]
    return jsonify({"success": True, "data": data, "count": len(data)})
