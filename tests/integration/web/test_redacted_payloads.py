"""What a payload's marked fields hold is shown by no answer, page or command."""

from __future__ import annotations

import json

from flask import Flask
from flask.testing import FlaskClient
from redis import Redis

from jobserver import JobServer
from jobserver.policy import Retention
from jobserver.runner import perform
from tests.hands import hash_of
from tests.integration.web.shop import TOKEN, charge, claim

CARD = "4111-1111-'1111'"


def test_marked_fields_are_shown_by_nothing(
    shop: Flask, server: JobServer, admin: FlaskClient, redis: Redis
) -> None:
    made = charge.enqueue(card=CARD, amount=7)
    (claimed,) = claim(server)
    ending = perform(server, claimed)
    server.broker.exchange("tester", endings=[(ending, Retention())])
    assert CARD in hash_of(redis, made.id)["data"]
    job, listed = f"/engine/api/v1/jobs/{made.id}", "/engine/rq/0/data/job"
    seen = {
        "job": admin.get(job).text,
        "attempts": admin.get(f"{job}/attempts").text,
        "jobs": admin.get("/engine/api/v1/jobs").text,
        "seed": admin.get("/engine/api/v1/queues/MAIL/failed").text,
        "page": admin.get(f"{listed}/{made.id}.json").text,
        "shell": shop.test_cli_runner().invoke(args=["jobs", "show", made.id]).output,
    }
    for where, text in seen.items():
        assert made.id in text or where == "attempts", (where, text)
        assert "4111" not in text, (where, text)
    assert '"card": "[redacted]"' in seen["shell"]
    assert json.loads(seen["page"])["payload"] == {"card": "[redacted]", "amount": 7}
    assert json.loads(seen["job"])["error"]["message"] == 'the card "[redacted]" has no 7 left'
    assert TOKEN not in "".join(seen.values())
