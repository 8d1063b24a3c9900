"""Orders to one worker by RQ's commands (rq/command.py): stop a job, shut down, kill the horse.

They come over Redis' publish and subscribe, read by a thread that outlives restarts of Redis; one
that is sent while nobody is subscribed is lost, as with stock RQ.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable
from typing import ClassVar

import orjson
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from rq.command import PUBSUB_CHANNEL_TEMPLATE

from jobserver.errors import JobServerError
from jobserver.server import Server
from jobserver.worker.dispatcher import Dispatcher

LISTEN = 5.0  # seconds of one wait; each also finds out whether the connection is still good
PAUSE = 1.0  # seconds until a lost connection is made anew

logger = logging.getLogger("jobserver.worker")


class Orders:
    """The thread."""

    def __init__(
        self, server: Server, connection: Redis, dispatcher: Dispatcher, *, name: str
    ) -> None:
        self._server = server
        self._connection = connection
        self._broker = server.broker.beside(connection)
        self._dispatcher = dispatcher
        self._channel = PUBSUB_CHANNEL_TEMPLATE % name
        self._over = threading.Event()

    def start(self) -> None:
        """Begin."""
        threading.Thread(target=self._run, name="orders", daemon=True).start()

    def close(self) -> None:
        """End, at the next chance."""
        self._over.set()

    def _run(self) -> None:
        while not self._over.is_set():
            try:
                self._listen()
            except (RedisError, OSError):  # the dispatcher tells of it
                self._over.wait(PAUSE)

    def _listen(self) -> None:
        with self._connection.pubsub(ignore_subscribe_messages=True) as subscription:
            subscription.subscribe(self._channel)
            is_asked = False
            while not self._over.is_set():
                message = subscription.get_message(timeout=LISTEN)
                if message is None:
                    if is_asked:
                        raise RedisConnectionError("no answer: the connection is dead")
                    subscription.ping()
                is_asked = message is None
                if message and message["type"] == "message":
                    self._obey(message["data"])

    def _obey(self, data: bytes) -> None:
        try:
            order = orjson.loads(data)
            word = order["command"]
            obey = self._words[word]
            obey(self, str(order.get("job_id", "")), str(order.get("execution_id", "")))
        except (ValueError, TypeError, KeyError):
            logger.warning("an order that is none of RQ's: %.200r", data)
        except JobServerError as error:
            logger.warning("%s: %s", word, error)

    def _stop_job(self, job_id: str, exec_id: str) -> None:
        if not self._dispatcher.holds(job_id, exec_id):
            logger.warning("Job %s does not run here: it is not stopped", job_id)
            return
        logger.info("Job %s is stopped by order", job_id)
        kept = self._server.registry.queues
        job = self._broker.fetch(job_id)
        retention = kept[job.queue].retention
        if self._broker.cancel(job_id, retention=retention) == "asked":
            self._dispatcher.order(lambda: self._dispatcher.stop_job(job_id))

    def _shut_down(self, job_id: str, exec_id: str) -> None:
        logger.info("Told to shut down")
        os.kill(os.getpid(), signal.SIGINT)  # as rq/command.py does

    def _kill_horse(self, job_id: str, exec_id: str) -> None:
        logger.info("Told to kill the processes of the running jobs")
        self._dispatcher.order(self._dispatcher.kill_processes)

    _words: ClassVar[dict[str, Callable[[Orders, str, str], None]]] = {
        "stop-job": _stop_job,
        "stop-execution": _stop_job,
        "shutdown": _shut_down,
        "kill-horse": _kill_horse,
    }
