"""The sandbox: vendors' wire formats with made-up data behind them, for `make run` and tests.

A Flask app of its own, in one process: `gunicorn --config python:jobs.sandbox.web`, or
`flask --app jobs.sandbox run`. One module per vendor; `/_sandbox/…` says how they behave.
"""

from jobs.sandbox.application import create_app

__all__ = ["create_app"]
