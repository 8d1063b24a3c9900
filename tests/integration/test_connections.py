"""A process keeps to so many connections to Redis, however many threads it has."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

from redis import Redis

from jobserver import JobServer
from jobserver.broker import connect
from jobserver.server import REDIS_CONNECTIONS


def test_many_threads_share_few_connections(server: JobServer, redis: Redis) -> None:
    before = {client["id"] for client in redis.client_list()}
    together = threading.Barrier(100)

    def ask(_: int) -> float:
        together.wait()
        return server.broker.ping()

    with ThreadPoolExecutor(100) as pool:
        assert len(list(pool.map(ask, range(100)))) == 100
    opened = {client["id"] for client in redis.client_list()} - before
    assert 1 <= len(opened) <= REDIS_CONNECTIONS


def test_without_a_bound_each_takes_its_own(valkey: str) -> None:
    connection = connect(valkey)
    held = [connection.connection_pool.get_connection() for _ in range(REDIS_CONNECTIONS + 1)]
    for one in held:
        connection.connection_pool.release(one)
    connection.close()
