"""Connections to Redis or Valkey: by our configuration, failing fast, never retried unasked."""

from __future__ import annotations

from typing import Any, Self

from redis import BlockingConnectionPool, ConnectionPool, Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from jobserver.config import Config
from jobserver.errors import ConfigInvalid

CONNECTIONS = 64  # at most, of a client; a web process has hundreds of threads
CONNECT_TIMEOUT = 1.0  # seconds: with one command's 1 s a dead server is noticed in under 2 s


def connect(url: str, *, timeout: float = 1.0) -> Redis:
    """Return a client whose commands fail after `timeout` seconds and are not repeated by redis-py.

    redis-py's own retries would hold a request for up to a minute; repeating is the broker's
    business, which knows what may be repeated. Its threads share CONNECTIONS: who finds all in use
    waits for one, as long as for an answer, where redis-py's own pool would refuse at once.
    """
    options = {**_options(timeout), "max_connections": CONNECTIONS, "timeout": timeout}
    return Redis(connection_pool=BlockingConnectionPool.from_url(url, **options))


def sibling(connection: Redis, *, timeout: float, decoded: bool = False) -> Redis:
    """Return a client to the same server as `connection`, with a pool and a timeout of its own.

    With `decoded` its answers are texts.
    """
    pool = connection.connection_pool
    options = {**pool.connection_kwargs, **_options(timeout)}
    if decoded:
        options |= {"decode_responses": True, "encoding_errors": "replace"}
    options.pop("maint_notifications_config", None)
    options.pop("maint_notifications_pool_handler", None)
    return Redis(connection_pool=ConnectionPool(pool.connection_class, **options))


class Connection(Redis):
    """The class for RQ_CONNECTION_CLASS: `rq worker` and `rq info` connect by our configuration.

    RQ passes it REDIS_HOST and the like; only an explicit `--url` wins over the configuration.
    """

    def __init__(self, **options: Any) -> None:
        if options.get("connection_pool") is None:
            options = {"connection_pool": ConnectionPool.from_url(_configured_url())}
        super().__init__(**options)

    @classmethod
    def from_url(cls, url: str, **options: Any) -> Self:
        """Connect to the server of `rq --url`, or of REDIS_URL, which our config reads too."""
        return cls(connection_pool=ConnectionPool.from_url(url, **options))


def _configured_url() -> str:
    try:
        return Config.from_env().redis_url
    except ConfigInvalid as error:  # one line, where `rq` would print a traceback
        raise SystemExit(f"jobserver: {error}") from None


def _options(timeout: float) -> dict[str, Any]:
    return {
        "socket_timeout": timeout,
        "socket_connect_timeout": min(timeout, CONNECT_TIMEOUT),
        "retry": Retry(NoBackoff(), 0),
        "protocol": 2,
        "driver_info": None,
    }
