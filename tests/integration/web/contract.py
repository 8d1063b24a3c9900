"""Comparing an answer with the example that a seed's document shows of it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from redis import Redis
from werkzeug.test import TestResponse

Extra = Mapping[str, set[str]]


def assert_like(answer: Any, seed: Any, *, extra: Extra | None = None, at: str = "") -> None:
    """Assert that an answer has the keys and JSON types of the seed's example.

    `extra` names the keys that are ours, by where they are: "" is the top, "data.jobs[]" an item.
    """
    more = (extra or {}).get(at, set())
    assert _kind(answer) == _kind(seed), (at, answer)
    if isinstance(seed, dict):
        assert set(answer) == set(seed) | more, at
        for name, value in seed.items():
            assert_like(answer[name], value, extra=extra, at=f"{at}.{name}".lstrip("."))
    if isinstance(seed, list):
        assert answer, f"{at} is empty and shows nothing"
        for item in answer:
            assert_like(item, seed[0], extra=extra, at=f"{at}[]")


def assert_problem(response: TestResponse, status: int) -> dict[str, Any]:
    """Assert that a seed's route answers a problem of that status; return it."""
    assert response.status_code == status, response.get_data(as_text=True)
    assert response.content_type == "application/problem+json"
    problem: dict[str, Any] = response.get_json()
    assert problem["success"] is False
    assert problem["status"] == status
    assert problem["instance"] == response.request.path
    assert set(problem) - {"errors"} == {
        *("type", "title", "status", "detail", "instance", "success")
    }
    return problem


def age(redis: Redis, job_id: str, *, hours: float) -> None:
    """Let an ended job have ended some hours ago."""
    seconds, _ = redis.time()
    ended = datetime.fromtimestamp(seconds - hours * 3600, UTC)
    redis.hset(f"rq:job:{job_id}", "ended_at", f"{ended:%Y-%m-%dT%H:%M:%S.%fZ}")


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int | float):
        return "number"
    return {dict: "object", list: "array", str: "string", type(None): "null"}[type(value)]
