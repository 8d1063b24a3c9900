"""`/api/webhooks`: what other platforms send; each proves itself by its signature."""

from flask import Blueprint, Response

from jobserver import JobServer
from jobserver.errors import NotBuilt

webhooks = Blueprint("webhooks", __name__, url_prefix="/api/webhooks")


@webhooks.post("/<platform>")
@JobServer.describe(errors=(501,))
def receive(platform: str) -> Response:
    """Take what a platform sends; it is processed in the background."""
    raise NotBuilt(f"Webhooks of {platform!r} are planned, but not received yet")
