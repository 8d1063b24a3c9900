"""What only real server processes can show of who gets in, and how often."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from redis import Redis

from jobserver.broker import keys
from tests.integration.web.gunicorn import serving
from tests.integration.web.shop import TOKEN

ADMIN = {"Authorization": f"Bearer {TOKEN}"}
APP = "tests.engine_app:create_app()"
CARELESS = "tests.integration.web.careless:create_app()"
PATH = "/api/v1/jobs/none"  # 404 for those who get in


@pytest.fixture(scope="module")
def settings(valkey: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of the servers."""
    return {
        "REDIS_URL": valkey,
        "JOBSERVER_INSTANCE": str(tmp_path_factory.mktemp("instance")),
        "JOBSERVER_ADMIN_TOKEN": TOKEN,
    }


@pytest.fixture(scope="module")
def url(settings: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of the engine's test app on two processes."""
    with serving(APP, log=tmp_path_factory.mktemp("server") / "log", **settings) as url:
        yield url


def test_ten_repeats_at_once_make_one_job_and_get_equal_answers(url: str, redis: Redis) -> None:
    # It has no key: what is worked on twice is made twice.
    order = {"type": "engine_jobs.add", "payload": {"a": 1, "b": 2}}
    asked = [("", order), ("/bulk", {"jobs": [order] * 3})]
    with httpx.Client(headers=ADMIN, timeout=30) as client, ThreadPoolExecutor(10) as askers:

        def post(path: str, body: object, key: str) -> httpx.Response:
            headers = {"Idempotency-Key": f'"{key}"'}
            return client.post(f"{url}/api/v1/jobs{path}", json=body, headers=headers)

        for number, (path, body) in enumerate(asked * 3):
            repeats = [askers.submit(post, path, body, f"order-{number}") for _ in range(10)]
            answers = [repeat.result() for repeat in repeats]
            assert len({answer.content for answer in answers}) == 1, answers[0].text
            assert {answer.status_code for answer in answers} == {207 if path else 202}
            replayed = [answer.headers.get("Idempotent-Replayed") for answer in answers]
            assert sorted(map(str, replayed)) == ["None"] + ["true"] * 9
    assert len(list(redis.scan_iter(keys.job("*")))) == 3 * (1 + 3)


def test_headers_do_not_change_what_path_was_asked(url: str) -> None:
    for name, value in (("PATH_INFO", "/health/live"), ("SCRIPT_NAME", "/x")):
        answer = httpx.get(url + PATH, headers={name: value})
        assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, "Bearer")


def test_auth_off_admits_by_the_socket_and_no_forwarded_request(
    settings: dict[str, str], tmp_path: Path
) -> None:
    """The host's ProxyFix believes everybody; we look at what was before it."""
    environment = {**settings, "JOBSERVER_AUTH": "off"}
    with serving(CARELESS, log=tmp_path / "log", host="0.0.0.0", **environment) as url:  # noqa: S104
        assert httpx.get(url + PATH).status_code == 404
        for name in ("Forwarded", "X-Forwarded-For", "x-forwarded-host", "X-Forwarded-Proto"):
            assert httpx.get(url + PATH, headers={name: "127.0.0.1"}).status_code == 401
        port, address = url.rpartition(":")[2], _own_address()
        outside = httpx.get(f"http://{address}:{port}{PATH}", headers={"Host": "localhost"})
        assert outside.status_code == (404 if address.startswith("127.") else 401)


def test_auth_off_with_proxies_stops_the_start(settings: dict[str, str], tmp_path: Path) -> None:
    log = tmp_path / "log"
    environment = {**settings, "JOBSERVER_AUTH": "off", "PROXY_HOPS": "1"}
    with pytest.raises(AssertionError), serving(APP, log=log, **environment):
        pass
    assert "PROXY_HOPS=1" in log.read_text()


def _own_address() -> str:
    """Return an address of this machine that is not loopback's, where it has one."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing
        except OSError:
            return "127.0.0.1"
        return str(probe.getsockname()[0])
