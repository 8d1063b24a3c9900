"""The sandbox: vendors' wire formats with made-up data behind them, for `make run` and tests.

A Flask app of its own, in one process: `flask --app jobs.sandbox run`. One module per vendor;
`POST /_sandbox/<vendor>` says how it behaves, `GET /_sandbox/requests` what they were asked.
"""

from jobs.sandbox.application import create_app

__all__ = ["create_app"]
