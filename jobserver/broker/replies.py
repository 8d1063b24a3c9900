"""Replies to requests that name themselves, so that a repeated request is worked on once."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import orjson

from jobserver.broker.broker import Broker
from jobserver.policy import DAY

CLAIM_SECONDS = 30  # a crashed request's name is free again after this
KEPT_SECONDS = DAY


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """What a request was answered."""

    status: int
    headers: Mapping[str, str]
    body: str


class Replies:
    """The verbs over them. Raises RedisUnavailable when Redis cannot be reached."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    def claim(
        self, name: str, *, fingerprint: str, claim: str
    ) -> Reply | Literal["claimed", "running", "other"]:
        """Claim a name for a request, or return its reply, or why neither: somebody else's claim

        ('running'), or a request of another fingerprint ('other').
        """
        word, *packed = self._broker.run_script(
            "reply_claim", name, fingerprint, claim, CLAIM_SECONDS * 1000
        )
        if packed:
            return Reply(**orjson.loads(zlib.decompress(packed[0])))
        known: Literal["claimed", "running", "other"] = word.decode()
        return known

    def keep(self, name: str, *, claim: str, reply: Reply) -> bool:
        """Keep the reply of a claimed request for a day; return False when the claim had lapsed."""
        packed = zlib.compress(orjson.dumps(reply))
        return bool(self._broker.run_script("reply_keep", name, claim, packed, int(KEPT_SECONDS)))

    def release(self, name: str, *, claim: str) -> None:
        """Let a repeat of a claimed request be worked on anew."""
        self._broker.run_script("reply_keep", name, claim, "", 0)
