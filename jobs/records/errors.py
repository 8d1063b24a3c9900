"""What can go wrong between the writers of records."""

from jobserver.errors import JobServerError


class SyncOvertaken(JobServerError):
    """Another attempt of the same run went on with this sync."""

    status = 409
