"""Gunicorn's settings under `make run`; GUNICORN_CMD_ARGS adds to them and wins over them."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

from gunicorn.glogging import Logger  # type: ignore[import-untyped]

from jobserver import log
from jobserver.config import Config
from jobserver.current import EXTENSION
from jobserver.embedded import LOOPBACK

_config = Config.from_env()
log.start(_config)


class GunicornLog(Logger):  # type: ignore[misc]  # it ships no types
    """Gunicorn's own lines go where all others of the process go."""

    def setup(self, cfg: Any) -> None:
        """Set up what gunicorn would, but for lines on stderr, which are handed on."""
        super().setup(cfg)
        if cfg.errorlog == "-":
            self.error_log.handlers.clear()
            self.error_log.propagate = True


logger_class = GunicornLog
bind = f"{LOOPBACK}:{_config.port}"
# A long poll or an event stream holds a thread for as long as it lasts, asleep but for its job's
# changes. docs/polling.md has what that costs, and why these are not greenlets.
worker_class = "gthread"
workers = 2
threads = _config.max_waiters + 32
worker_connections = threads + 1000
limit_request_line = 8190  # a search may name all that it can
keepalive = 10  # seconds: more than pollers let pass between two requests
# The app opens no connection before its first request, so it is loaded once and forked.
preload_app = True
graceful_timeout = 2
control_socket_disable = True
# From this machine gunicorn would take SCRIPT_NAME and PATH_INFO from headers of these names: a
# request that a proxy has let through as one path could be answered as another.
forwarder_headers = ""


def when_ready(_server: object) -> None:
    """Print where the system is and how to sign in, once requests are accepted."""
    print(
        f"\n  jobserver runs at http://{LOOPBACK}:{_config.port}\n"
        f"  admin token: {_config.admin_token}\n",
        flush=True,
    )


def post_worker_init(worker: Any) -> None:
    """Let waiting clients go as soon as the process is to stop: they come again elsewhere."""
    end = signal.getsignal(signal.SIGTERM)

    def stop(number: int, frame: FrameType | None) -> None:
        # In a thread: the handler must not wait for a lock that this very thread may hold.
        threading.Thread(target=worker_int, args=(worker,)).start()
        if callable(end):
            end(number, frame)

    signal.signal(signal.SIGTERM, stop)


def worker_int(worker: Any) -> None:
    """Let waiting clients go when the process is to quit at once, too."""
    worker.wsgi.extensions[EXTENSION].lookout.close()
