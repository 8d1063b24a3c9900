"""The sandbox's app: every vendor, and the routes by which tests steer them."""

from collections import deque

from flask import Flask, Response, abort, request
from marshmallow import ValidationError

from jobs.sandbox import directory, tracker
from jobs.sandbox.door import Asked, Door, answer

KEPT_REQUESTS = 10_000


def create_app() -> Flask:
    """Return the sandbox; what it is told and asked is kept by this process only."""
    app = Flask(__name__)
    asked: deque[Asked] = deque(maxlen=KEPT_REQUESTS)
    doors: dict[str, Door] = {}
    for vendor in (directory, tracker):
        door = Door(vendor.NAME, schema=vendor.SCHEMA, asked=asked)
        doors[door.name] = door
        app.register_blueprint(vendor.blueprint(door))

    @app.post("/_sandbox/<name>")
    def steer(name: str) -> Response:
        """Let a vendor behave as the body says from now on; what it leaves out is as at first."""
        door = doors.get(name) or abort(404)
        try:
            door.steer(request.get_json())
        except ValidationError as error:
            return answer({"errors": error.normalized_messages()}, status=422)  # type: ignore[no-untyped-call]
        asked.clear()
        return answer(door.described())

    @app.get("/_sandbox/requests")
    def list_requests() -> Response:
        """List what vendors were asked since one was last steered, oldest first."""
        return answer({"requests": list(asked)})

    return app
