"""How many requests an asker may make (draft-ietf-httpapi-ratelimit-headers); off by default."""

from __future__ import annotations

import hashlib
import logging
from math import ceil

from flask import Response, g

from jobserver import current
from jobserver.errors import QuotaExceeded, RedisUnavailable

POLICY = "default"

logger = logging.getLogger(__name__)


def take(asker: str) -> None:
    """Count a request of an asker; raises QuotaExceeded. Costs nothing where no limit is set.

    Redis away limits nobody: what needs it fails anyway, and what does not should go on.
    """
    server = current.server()
    limit = server.config.rate_limit
    if limit is None:
        return
    requests, seconds = limit
    name = hashlib.sha256(asker.encode()).hexdigest()
    try:
        taken, left, full, wait = server.broker.run_script("quota", name, requests, seconds * 1000)
    except RedisUnavailable as error:
        logger.warning("requests are not limited: %s", error)
        return
    g.jobserver_quota = {
        "RateLimit-Policy": f'"{POLICY}";q={requests};w={seconds}',
        "RateLimit": f'"{POLICY}";r={left};t={ceil(full / 1000)}',
    }
    if not taken:
        raise QuotaExceeded(
            f"{requests} requests in {seconds} s are allowed.", retry_after=ceil(wait / 1000)
        )


def tell(response: Response) -> None:
    """Add what is left to a response."""
    response.headers.extend(g.get("jobserver_quota", {}))
