"""A host app with recurring entries and a database, for the scheduler's tests."""

from __future__ import annotations

import os

from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from marshmallow import Schema, fields

from jobserver import Every, JobServer, Queue, job

CLOCK = Queue("clock", executor="thread")


class Beat(Schema):
    """What a beat carries."""

    hand = fields.String(required=True)


@job(queue=CLOCK, schema=Beat)
def beat(hand: str) -> str:
    """Return the hand that moved."""
    return hand


second = Every(id="second", seconds=1, job=beat, payload={"hand": "second"}, overlap="allow")
minute = Every(id="minute", seconds=60, job=beat, payload={"hand": "minute"}, overlap="allow")


def create_app() -> Flask:
    """Return the app by the configuration in the environment."""
    app = Flask("ticking")
    app.config["SQLALCHEMY_DATABASE_URI"] = os.environ["DATABASE_URL"]
    db = SQLAlchemy(app)
    JobServer(app, jobs=["tests.ticking"], db=db)
    return app
