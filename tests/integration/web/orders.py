"""A protected route that creates, as an application writes it, and a way to hold it at work."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from flask import Blueprint, Response, jsonify, request

from jobserver import JobServer, errors
from jobserver.http.idempotency import call_id


class Orders:
    """The route's blueprint, what reached its view, and what the view does last."""

    def __init__(self) -> None:
        self.taken: list[dict[str, Any]] = []
        self.last: Callable[[], None] = lambda: None
        self._lock = threading.Lock()
        self.blueprint = Blueprint("orders", __name__, url_prefix="/orders")
        JobServer.protect(self.blueprint, role="user")

        @self.blueprint.post("")
        @JobServer.idempotent
        def create() -> tuple[Response, int, dict[str, str]]:
            body = request.get_json()
            with self._lock:
                self.taken.append(body)
                number = len(self.taken)
            self.last()
            if body.get("status"):
                raise errors.WrongState if body["status"] == 409 else ValueError
            if body.get("returned"):
                return jsonify(number=number), body["returned"], {}
            headers = {"Location": f"/orders/{number}", "Retry-After": "2", "X-Mine": "once"}
            return jsonify(number=number, call=call_id()), 202, headers
