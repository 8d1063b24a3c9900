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
SHOP = "tests.integration.web.real_shop:create_app()"
PATH = "/api/v1/jobs/none"  # 404 for those who get in


@pytest.fixture
def settings(redis: Redis, valkey: str, tmp_path: Path) -> dict[str, str]:
    """The environment of the servers."""
    return {
        "REDIS_URL": valkey,
        "DATABASE_URL": f"sqlite:///{tmp_path}/shop.db",
        "JOBSERVER_INSTANCE": str(tmp_path),
        "JOBSERVER_ADMIN_TOKEN": TOKEN,
    }


@pytest.fixture
def shop(settings: dict[str, str], tmp_path: Path) -> Iterator[str]:
    """The URL of a shop on two processes."""
    with serving(SHOP, log=tmp_path / "log", **settings) as url:
        yield url


def test_ten_repeats_at_once_make_one_job_and_get_equal_answers(shop: str, redis: Redis) -> None:
    def post(key: str) -> httpx.Response:
        headers = {**ADMIN, "Idempotency-Key": key}
        return httpx.post(f"{shop}/orders", json={}, headers=headers, timeout=30)

    with ThreadPoolExecutor(10) as clients:
        for number in range(5):
            answers = list(clients.map(post, [f'"order-{number}"'] * 10))
            assert [answer.status_code for answer in answers] == [202] * 10
            assert len({answer.content for answer in answers}) == 1
            replayed = [answer.headers.get("Idempotent-Replayed") for answer in answers]
            assert sorted(map(str, replayed)) == ["None"] + ["true"] * 9
            assert redis.llen(keys.waiting("mail")) == number + 1


def test_auth_off_admits_this_machine_and_no_forwarded_request(
    settings: dict[str, str], tmp_path: Path
) -> None:
    environment = {**settings, "JOBSERVER_AUTH": "off"}
    with serving(SHOP, log=tmp_path / "log", host="0.0.0.0", **environment) as url:  # noqa: S104
        assert httpx.get(url + PATH).status_code == 404
        for name in ("Forwarded", "X-Forwarded-For", "x-forwarded-host", "X-Forwarded-Proto"):
            assert httpx.get(url + PATH, headers={name: "127.0.0.1"}).status_code == 401
        port = url.rpartition(":")[2]
        address = _own_address()
        outside = httpx.get(f"http://{address}:{port}{PATH}", headers={"Host": "localhost"})
        assert outside.status_code == (404 if address.startswith("127.") else 401)


def test_auth_off_looks_at_the_socket_before_any_proxy_fix(
    settings: dict[str, str], tmp_path: Path
) -> None:
    careless = SHOP.replace("()", "(behind_proxy=True)")
    environment = {**settings, "JOBSERVER_AUTH": "off"}
    with serving(careless, log=tmp_path / "log", **environment) as url:
        assert httpx.get(url + PATH).status_code == 404
        headers = {"X-Forwarded-For": "127.0.0.1"}
        assert httpx.get(url + PATH, headers=headers).status_code == 401


def test_auth_off_with_proxies_stops_the_start(settings: dict[str, str], tmp_path: Path) -> None:
    log = tmp_path / "log"
    environment = {**settings, "JOBSERVER_AUTH": "off", "PROXY_HOPS": "1"}
    with pytest.raises(AssertionError), serving(SHOP, log=log, **environment):
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
