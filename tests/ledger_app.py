"""The app of the tests of the ledger under kills; `load` enqueues until there are enough jobs."""

from __future__ import annotations

import os
import random
import time

import click
from flask import Flask
from flask_sqlalchemy import SQLAlchemy

from jobserver import JobServer
from jobserver.errors import JobNotFound, WrongState

# How many of each there are in a hundred.
KINDS = {
    **{"succeed": 50, "fail": 5, "discard": 5, "recover": 5, "snooze": 5, "rerun": 5, "linger": 2},
    **{"compute": 20, "crash": 2, "overrun": 1},
}
AT_ONCE = 10
MOST_WAITING = 50
COUNT = "ledger-load"  # the key that counts what all loads of a test have begun to enqueue


def create_app() -> Flask:
    """Return the app by the configuration in the environment."""
    app = Flask("ledger_app")
    app.config["SQLALCHEMY_DATABASE_URI"] = os.environ["DATABASE_URL"]
    server = JobServer(app, jobs=["tests.ledger_jobs"], db=SQLAlchemy(app))

    @app.cli.command()
    @click.argument("jobs", type=int)
    @click.argument("seed", type=int)
    def load(jobs: int, seed: int) -> None:
        """Enqueue, cancel and retry until there are so many jobs."""
        _load(server, jobs, random.Random(seed))  # noqa: S311

    return app


def _load(server: JobServer, jobs: int, draw: random.Random) -> None:
    redis = server.broker.connection
    # The same kind for a number, whoever comes to enqueue it.
    kinds = random.Random(7).choices(list(KINDS), list(KINDS.values()), k=10_000)  # noqa: S311
    while (number := redis.incrby(COUNT, AT_ONCE)) <= jobs:
        numbers = range(number - AT_ONCE, number)
        for one in numbers:
            # Of each ten of a key most meet one that is active.
            key = f"again-{one // 10}" if kinds[one % 10_000] == "rerun" else None
            job = server.enqueue(
                f"ledger_jobs.{kinds[one % 10_000]}",
                {"number": one},
                key=key,
                delay=0.3 if draw.randrange(10) == 0 else None,
                priority=draw.choice(("high", "normal", "low")),
            )
            try:
                if draw.randrange(25) == 0:
                    server.cancel(job.id)
                if draw.randrange(25) == 0:
                    failed = server.failed("swift", end=9)
                    server.retry(draw.choice(failed).id if failed else job.id)
            except (WrongState, JobNotFound):
                pass  # it was faster
        while sum(redis.llen(f"rq:queue:{queue}") for queue in ("swift", "apart")) > MOST_WAITING:
            time.sleep(0.01)
