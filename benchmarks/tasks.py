"""The jobs that are timed: ours declared, stock RQ's as plain functions."""

from __future__ import annotations

import time

from marshmallow import Schema, fields

from jobserver import Policy, Queue, Retention, current, job

KEPT = Retention(completed_count=1_000_000, failed_count=1_000_000)
THREADS = Queue("bench-threads", executor="thread", retention=KEPT)
PROCESSES = Queue("bench-processes", retention=KEPT)


class Pair(Schema):
    a = fields.Integer(required=True)
    b = fields.String(required=True)


@job(queue=THREADS, schema=Pair, policy=Policy(timeout=180))
def noop(a: int, b: str) -> None:
    """Do nothing."""


@job(queue=PROCESSES, schema=Pair, policy=Policy(timeout=180))
def noop_process(a: int, b: str) -> None:
    """Do nothing, in a child process."""


@job(queue=THREADS, policy=Policy(timeout=180))
def nap() -> None:
    """Wait for something for 20 ms."""
    time.sleep(0.02)


@job(queue=THREADS, policy=Policy(timeout=180))
def mark(key: str) -> None:
    """Say when this began."""
    began = time.time()
    current.server().broker.connection.rpush(key, began)


def stock_noop(a: int, b: str) -> None:
    """Do nothing, for stock RQ."""
