"""A process keeps to so many connections to Redis, however many threads it has."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

from redis import Redis

from jobserver import JobServer
from jobserver.broker.connection import CONNECTIONS


def test_more_threads_than_connections_wait_for_one(server: JobServer, redis: Redis) -> None:
    before = {client["id"] for client in redis.client_list()}
    threads = 3 * CONNECTIONS
    together = threading.Barrier(threads)

    def ask(_: int) -> float:
        together.wait()
        return server.broker.ping()

    redis.client_pause(200)  # so that all ask at the same time
    with ThreadPoolExecutor(threads) as pool:
        assert len(list(pool.map(ask, range(threads)))) == threads
    opened = {client["id"] for client in redis.client_list()} - before
    assert CONNECTIONS // 2 < len(opened) <= CONNECTIONS
