"""Gunicorn's settings under `make run`; GUNICORN_CMD_ARGS adds to them and wins over them."""

from __future__ import annotations

import logging

from jobserver.config import Config
from jobserver.embedded import LOOPBACK

_config = Config.from_env()
logging.basicConfig(level=_config.log_level, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")

bind = f"{LOOPBACK}:{_config.port}"
worker_class = "gthread"
workers = 2
# A long poll or an event stream holds a thread for as long as it lasts.
threads = 32
# The app opens no connection before its first request, so it is loaded once and forked.
preload_app = True
# Open event streams would use up all the time there is for an ordered stop.
graceful_timeout = 2
control_socket_disable = True


def when_ready(_server: object) -> None:
    """Print where the system is and how to sign in, once requests are accepted."""
    print(
        f"\n  jobserver runs at http://{LOOPBACK}:{_config.port}\n"
        f"  admin token: {_config.admin_token}\n",
        flush=True,
    )
