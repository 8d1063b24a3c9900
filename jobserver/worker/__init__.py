"""The worker: `rq worker` with RQ_WORKER_CLASS=jobserver.worker.Worker, or `flask jobs worker`."""

from jobserver.worker.worker import Worker

__all__ = ["Worker"]
