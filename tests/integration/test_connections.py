"""A process keeps to so many connections to Redis, however many threads it has."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

from redis import Redis

from jobserver.broker import Broker
from jobserver.broker.connection import CONNECTIONS, connect


def test_more_threads_than_connections_wait_for_one(redis: Redis, valkey: str) -> None:
    before = {client["id"] for client in redis.client_list()}
    threads = 3 * CONNECTIONS
    together = threading.Barrier(threads)
    broker = Broker(connect(valkey, timeout=10))  # a machine may take longer than 1 s for them all

    def ask(_: int) -> float:
        together.wait()
        return broker.ping()

    redis.client_pause(200)  # so that all ask at the same time
    with ThreadPoolExecutor(threads) as pool:
        assert len(list(pool.map(ask, range(threads)))) == threads
    opened = {client["id"] for client in redis.client_list()} - before
    broker.connection.close()
    assert CONNECTIONS // 2 < len(opened) <= CONNECTIONS
