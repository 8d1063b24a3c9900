"""The trace: one id for all that a request, a tick or a job sets off, in jobs and in log lines."""

from __future__ import annotations

from jobserver import current
from jobserver.progress import current_run


def trace() -> str:
    """Return the trace that this code is part of: the running job's, else the request's id.

    "" outside of both.
    """
    run = current_run()
    return run.trace if run else current.request_id()
