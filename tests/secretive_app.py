"""An app whose jobs and routes do with secrets what they should not."""

from __future__ import annotations

import logging
import os
from typing import Any

import structlog
from flask import Flask, request
from flask_sqlalchemy import SQLAlchemy
from marshmallow import Schema, fields, validate

from jobserver import JobServer, Policy, Queue, fixed, job, progress

logger = logging.getLogger(__name__)
THREADS = Queue("in-threads", executor="thread")
PROCESSES = Queue("in-processes")
ONCE = Policy(attempts=1)
NAMES = ("JOBSERVER_ADMIN_TOKEN", "SECRET_KEY", "REDIS_URL", "DATABASE_URL")


class Login(Schema):
    """A payload with a secret, and one deeper in."""

    token = fields.String(required=True, metadata={"secret": True})
    cards = fields.List(fields.Nested({"number": fields.String(metadata={"secret": True})}))
    depth = fields.Integer(load_default=0, validate=validate.Range(0, 3))


def blurt(token: str, cards: list[dict[str, str]]) -> None:
    """Say all secrets in every way there is, and fail with them."""
    settings = " ".join(os.environ[name] for name in NAMES)
    number = cards[0]["number"]
    logger.debug("debug %s %s", token, settings)
    logger.warning("warning %s", number, extra={"sent": {"token": token, "all": settings}})
    structlog.stdlib.get_logger(__name__).error("error", token=token, cards=cards)
    progress(50, message=f"half of {token}")
    try:
        raise PermissionError(f"no entry with {number!r}")
    except PermissionError:
        logger.exception("failed with %s", [token])
        raise RuntimeError(f"not with {token} at {settings}") from None


@job(queue=THREADS, schema=Login, policy=Policy(attempts=2, backoff=fixed(0)))
def in_thread(token: str, cards: list[dict[str, str]], depth: int) -> None:
    """Fail twice in a thread."""
    blurt(token, cards)


@job(queue=PROCESSES, schema=Login, policy=ONCE)
def in_process(token: str, cards: list[dict[str, str]], depth: int) -> None:
    """Fail in a process."""
    blurt(token, cards)


def create_app() -> Flask:
    """Return the app by the configuration in the environment."""
    app = Flask("secretive_app")
    app.config["SQLALCHEMY_DATABASE_URI"] = os.environ["DATABASE_URL"]
    JobServer(app, jobs=[__name__], db=SQLAlchemy(app))

    @app.post("/blurt")
    def fail() -> Any:
        logger.info("asked with %s", request.headers["Authorization"].split()[1])
        raise RuntimeError(" ".join(os.environ[name] for name in NAMES))

    return app
