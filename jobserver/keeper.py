"""The handler that gives each line of a running job to the job's transcript."""

from __future__ import annotations

import logging

from jobserver.progress import current_run


class Keeper(logging.Handler):
    """Takes what is logged inside a job, and nothing else."""

    def emit(self, record: logging.LogRecord) -> None:
        """Give a record to the run that it was logged in."""
        run = current_run()
        if run is None or run.write is None:
            return
        try:
            run.transcript.add(record, attempt=run.attempt)
        except Exception:  # a line that can't be written ends no job
            self.handleError(record)


_keeper = Keeper()
_root = logging.getLogger()


def listen() -> None:
    """Hear what this process's jobs log, also after somebody has set up logging anew."""
    if _keeper not in _root.handlers:
        _root.addHandler(_keeper)
