"""A foreign shop: a Flask app with its own database and users that embeds the job server.

It knows nothing of jobs/, and nothing here but the five lines in `create_app` is about us.
"""

from __future__ import annotations

import logging
from typing import Any

import structlog
from flask import Flask, abort, g, jsonify, request
from flask_sqlalchemy import SQLAlchemy
from marshmallow import Schema, fields
from sqlalchemy import Integer, String
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from jobserver import Config, Discard, JobServer, Policy, Queue, current_run, fixed, job
from jobserver.auth import Principal
from jobserver.broker import Claim, Share
from jobserver.broker.exchange import wanted
from jobserver.ids import new_id
from jobserver.server import Server

TOKEN = "a-token-for-tests"
MAIL = Queue("mail", key="MAIL")

logger = logging.getLogger(__name__)


class Letter(Schema):
    """What a letter needs."""

    to = fields.String(required=True)
    text = fields.String(load_default="")


@job(
    queue=MAIL,
    schema=Letter,
    key="letter-{to}",
    policy=Policy(attempts=2, backoff=fixed(40)),
    users=True,
)
def send_letter(*, to: str, text: str = "") -> dict[str, Any]:
    """Send a letter; returns {"sent": to}."""
    if text == "lost":
        raise ConnectionError("the post is on strike")
    if text == "illegal":
        raise Discard("no such street")
    return {"sent": to}


class Charge(Schema):
    """What a payment needs."""

    card = fields.String(required=True, metadata={"secret": True})
    amount = fields.Integer(load_default=1)


@job(queue=MAIL, schema=Charge, policy=Policy(attempts=1))
def charge(*, card: str, amount: int) -> None:
    """Charge a card, which always fails and says with which."""
    raise RuntimeError(f"the card {card!r} has no {amount} left")


@job(queue=MAIL, schema=Charge, policy=Policy(attempts=2, backoff=fixed(0)), users=True)
def tell(*, card: str, amount: int) -> None:
    """Log `amount` lines, in both ways, and fail at the first attempt."""
    for number in range(amount):
        logger.info("line %d with %s", number, card)
    structlog.stdlib.get_logger(__name__).warning("told", amount=amount)
    logger.debug("not at this level")
    run = current_run()
    if run and run.attempt == 1:
        raise ConnectionError("once more")


class Base(DeclarativeBase):
    """The shop's own tables."""


db = SQLAlchemy(model_class=Base)


class User(db.Model):  # type: ignore[name-defined, misc]
    """A customer, known by a name in a header: this shop trusts everybody."""

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    name: Mapped[str] = mapped_column(String, unique=True)


class Note(db.Model):  # type: ignore[name-defined, misc]
    """What the shop wrote down."""

    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    text: Mapped[str] = mapped_column(String)


def customer() -> Principal | None:
    """Return the customer who is asking, as the job server wants to know it."""
    user = g.get("user")
    return Principal(name=user.name, role="user", owner=str(user.id)) if user else None


def create_app(config: Config, *, database: str, url_prefix: str = "/engine") -> Flask:
    """Return the shop."""
    app = Flask("shop")
    app.config.update(SQLALCHEMY_DATABASE_URI=database, SECRET_KEY="the shop's own")
    db.init_app(app)

    @app.before_request
    def know_customer() -> None:
        name = request.headers.get("X-Customer")
        g.user = db.session.query(User).filter_by(name=name).one_or_none() if name else None

    @app.errorhandler(404)
    def nothing(_: Exception) -> tuple[str, int]:
        return "the shop has no such page", 404

    @app.errorhandler(405)
    def never(_: Exception) -> tuple[str, int]:
        return "the shop does not do that", 405

    @app.errorhandler(ValueError)
    def wrong(_: Exception) -> tuple[str, int]:
        return "the shop's own handler", 400

    @app.get("/missing")
    def missing() -> str:
        abort(404)

    @app.get("/wrong")
    def raise_wrong() -> str:
        raise ValueError("wrong")

    # The engine, from here:
    jobs = JobServer(
        jobs=[__name__], db=db, url_prefix=url_prefix, principal=customer, config=config
    )
    jobs.init_app(app)
    # to here.

    @app.post("/letters")
    def post_letter() -> Any:
        letter = request.get_json()
        db.session.add(Note(text=letter["to"]))
        made = jobs.enqueue(send_letter, letter, session=db.session, owner=str(g.user.id))
        if "burn" not in letter.get("text", ""):
            db.session.commit()
        return jsonify(id=made.id), 202

    return app


def claim(server: Server) -> list[Claim]:
    """Take what waits in the mail queue, as a worker would."""
    share = Share(queue=server.registry.queue("mail"), quota=50, room=50)
    worker = f"tester-{new_id()}"
    claim = wanted(
        request=1,
        token=f"{worker}-",
        lease=60,
        processes=50,
        threads=50,
        shares=[share],
        known=[],
    )
    return server.broker.exchange(worker, claim=claim)[1]
