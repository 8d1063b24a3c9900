"""Idempotency-Key (draft-ietf-httpapi-idempotency-key-header): a repeated request is one request.

The first one claims (principal, key) before its work. What it was answered is kept for 24 hours if
it succeeded, and repeated; after a failure the key is free again. A repeat that comes while the
first is at work waits for its answer.
"""

from __future__ import annotations

import hashlib
import logging
import re
import time
from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec

from flask import Response, current_app, g, request

from jobserver import current
from jobserver.broker.replies import Replies, Reply
from jobserver.errors import IdempotencyInFlight, IdempotencyMismatch, Malformed, RedisUnavailable
from jobserver.http import guard
from jobserver.ids import new_id

HEADER = "Idempotency-Key"
REPLAYED = "Idempotent-Replayed"
PATIENCE = 5.0  # seconds that a repeat waits for the answer of the first

_KEPT_HEADERS = ("Content-Type", "Location", "Retry-After", "Link", "ETag", "Cache-Control")
# A string of RFC 9651, whose parameters mean nothing here, or the same without its quotes.
_QUOTED = re.compile(r'"((?:[ !#-\[\]-~]|\\["\\])+)"(?:;.*)?')
_BARE = re.compile(r"[!#-~][!-~]*")
_LONGEST = 255
_MARK = "jobserver_idempotent"
_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.01, 0.2

P = ParamSpec("P")
logger = logging.getLogger(__name__)


def idempotent(view: Callable[P, Any]) -> Callable[P, Any]:
    """Decorate a view that creates, right below its route in a protected blueprint."""

    @wraps(view)
    def once(*args: P.args, **kwargs: P.kwargs) -> Any:
        sent = request.headers.get(HEADER)
        if sent is None:
            return view(*args, **kwargs)
        fingerprint = _fingerprint()
        asker = guard.credential().identity
        name = hashlib.sha256(repr((asker, parsed_key(sent))).encode()).hexdigest()
        g.jobserver_call = hashlib.sha256(f"{name} {fingerprint}".encode()).hexdigest()[:40]
        replies, claim = Replies(current.server().broker), new_id()
        known = _claim(replies, name, fingerprint=fingerprint, claim=claim)
        if isinstance(known, Reply):
            response = Response(known.body, known.status, headers=dict(known.headers))
            response.headers[REPLAYED] = "true"
            return response
        try:
            response = current_app.make_response(view(*args, **kwargs))
            reply = _reply(response)
        except BaseException:
            _end(replies, name, claim=claim, reply=None)
            raise
        _end(replies, name, claim=claim, reply=reply)
        return response

    setattr(once, _MARK, True)
    return once


def is_idempotent(view: Callable[..., Any]) -> bool:
    """Tell whether a view is decorated so, for those who describe it."""
    return hasattr(view, _MARK)


def call_id() -> str | None:
    """Return what names this request for `enqueue(call=…)`, None when it does not name itself.

    So a repeat finds the job even when the first died before its answer was kept.
    """
    found: str | None = g.get("jobserver_call")
    return found


def parsed_key(text: str) -> str:
    """Return the key that the header holds, quoted or bare; raises Malformed."""
    quoted = _QUOTED.fullmatch(text.strip())
    key = re.sub(r'\\(["\\])', r"\1", quoted[1]) if quoted else text.strip()
    if len(key) > _LONGEST or not (quoted or _BARE.fullmatch(key)):
        raise Malformed(
            f"{HEADER} is not accepted: use 1 to {_LONGEST} visible ASCII characters, as in "
            f'{HEADER}: "8e03978e-40d5-43dd-bc93-6894a57f9324".'
        )
    return key


def _fingerprint() -> str:
    asked = f"{request.method} {request.script_root}{request.full_path}\n".encode()
    return hashlib.sha256(asked + request.get_data(cache=True)).hexdigest()


def _claim(replies: Replies, name: str, *, fingerprint: str, claim: str) -> Reply | None:
    """Return the reply of an earlier request, None when this one is to be worked on."""
    deadline = time.monotonic() + PATIENCE
    pause = _SHORTEST_PAUSE
    while True:
        found = replies.claim(name, fingerprint=fingerprint, claim=claim)
        if isinstance(found, Reply):
            return found
        if found == "claimed":
            return None
        if found == "other":
            raise IdempotencyMismatch
        if time.monotonic() + pause > deadline:
            raise IdempotencyInFlight
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)


def _reply(response: Response) -> Reply | None:
    if response.status_code >= 400:
        return None
    headers = {name: response.headers[name] for name in _KEPT_HEADERS if name in response.headers}
    return Reply(status=response.status_code, headers=headers, body=response.get_data(as_text=True))


def _end(replies: Replies, name: str, *, claim: str, reply: Reply | None) -> None:
    try:
        if reply is None:
            replies.release(name, claim=claim)
        elif not replies.keep(name, claim=claim, reply=reply):
            logger.warning("a request outlived its claim; repeats of it are worked on anew")
    except RedisUnavailable as error:
        # The work is done, or has failed already: the asker is told that. The claim lapses.
        logger.warning("the answer to a repeatable request is not kept: %s", error)
