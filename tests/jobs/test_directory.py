"""What the directory's client makes of odd answers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from jobs.application import create_app
from jobs.gateways.directory import Directory
from jobs.gateways.errors import VendorRefused, VendorUnavailable
from jobs.settings import Settings
from jobserver import RateLimited

GOOD = {"id": "a", "username": "ada", "email": "a@b", "active": True}


@dataclass
class Vendor:
    """A server that gives one answer to everybody; without a status it hangs up."""

    status: int | None = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b"{}"
    paths: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vendor]:
    """That server, and the application that asks it."""
    vendor = Vendor()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            vendor.paths.append(self.path)
            if vendor.status is None:
                self.close_connection = True
                return
            self.send_response(vendor.status)
            for name, value in vendor.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(vendor.body)))
            self.end_headers()
            self.wfile.write(vendor.body)

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}/api"
        settings = Settings(
            instance_path=tmp_path_factory.mktemp("instance"),
            redis_url="redis://127.0.0.1:1/0",
            directory_url=url,
        )
        with create_app(settings).app_context():
            yield vendor
        server.shutdown()
        thread.join()


@pytest.fixture
def vendor(running: Vendor) -> Vendor:
    """That server, which was asked nothing yet."""
    running.status = 200
    running.paths.clear()
    return running


def answer(vendor: Vendor, body: Any, **headers: str) -> None:
    vendor.body = body if isinstance(body, bytes) else json.dumps(body).encode()
    vendor.headers = headers


def read() -> Any:
    with Directory() as directory:
        return directory.users(cursor="x y&z", limit=7)


@pytest.mark.parametrize(
    ("retry_after", "accepted"),
    [
        (lambda: "17", lambda wait: wait == 17),
        (lambda: "99999999", lambda wait: wait == 3600),
        (lambda: None, lambda wait: wait == 30),
        (lambda: "soon", lambda wait: wait == 30),
        (lambda: "-5", lambda wait: wait == 30),
        (
            lambda: format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True),
            lambda wait: 50 < wait <= 60,
        ),
        (lambda: "Fri, 01 Jan 2021 00:00:00 GMT", lambda wait: wait == 1),
    ],
)
def test_too_many_requests_wait_as_long_as_the_directory_says(
    vendor: Vendor, retry_after: Callable[[], str | None], accepted: Callable[[float], bool]
) -> None:
    vendor.status = 429
    header = retry_after()
    answer(vendor, {}, **({"Retry-After": header} if header is not None else {}))
    with pytest.raises(RateLimited) as raised:
        read()
    assert accepted(raised.value.seconds), raised.value.seconds


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [
        (500, {}, VendorUnavailable),
        (503, b"", VendorUnavailable),
        (304, b"", VendorRefused),
        (None, b"", VendorUnavailable),
        (401, {}, VendorRefused),
        (404, {}, VendorRefused),
        (302, {}, VendorRefused),
        (200, b"<html>", VendorUnavailable),
        (200, b"\xff", VendorUnavailable),
        (200, b"[" * 100_000, VendorUnavailable),
        (200, [], VendorUnavailable),
        (200, {}, VendorUnavailable),
        (200, {"users": {}}, VendorUnavailable),
        (200, {"users": [], "nextCursor": 7}, VendorUnavailable),
        (200, {"users": [], "nextCursor": "x y&z"}, VendorUnavailable),  # for ever
    ],
)
def test_an_answer_that_is_none_is_an_error(
    vendor: Vendor, status: int | None, body: Any, error: type[Exception]
) -> None:
    vendor.status = status
    answer(vendor, body)
    with pytest.raises(error):
        read()


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (7, "7 is no object"),
        ({**GOOD, "id": None}, "id is None"),
        ({**GOOD, "id": ""}, "id is ''"),
        ({**GOOD, "id": "a,b"}, "with a comma"),
        ({**GOOD, "id": ["a"]}, "no text"),
        ({**GOOD, "username": ""}, "username is ''"),
        ({**GOOD, "email": "@b"}, "no address"),
        ({**GOOD, "email": "a@"}, "no address"),
        ({**GOOD, "active": 1}, "active is 1"),
        ({**GOOD, "title": "x" * 256}, "256 characters"),
        ({**GOOD, "title": "\0"}, "characters that are none"),
        ({**GOOD, "title": "\ud800"}, "characters that are none"),
        ({**GOOD, "updatedAt": "2026-01-01T00:00:00"}, "offset"),
        ({**GOOD, "updatedAt": 1e308}, "no text"),
    ],
)
def test_a_record_that_makes_no_sense_is_refused_alone(
    vendor: Vendor, record: Any, reason: str
) -> None:
    answer(vendor, {"users": [record, {**GOOD, "id": "z", "title": "tab\tand ü"}]})
    page = read()
    assert [user.id for user in page.items] == ["z"]
    (refusal,) = page.refusals
    assert reason in refusal.reason
    assert (page.cursor, page.total, page.etag) == (None, None, None)


def test_the_question_is_put_as_it_should(vendor: Vendor) -> None:
    answer(vendor, {"users": [GOOD], "nextCursor": "on", "total": 3}, ETag='W/"1"')
    page = read()
    assert (page.cursor, page.total, page.etag) == ("on", 3, 'W/"1"')
    with Directory() as directory:
        directory.users_of(["a", "b/ü"], etag=None)
    assert vendor.paths == [
        "/api/directory/users?limit=7&cursor=x+y%26z",
        "/api/directory/users?ids=a%2Cb%2F%C3%BC",
    ]


def test_without_an_address_nothing_is_asked(tmp_path: Path) -> None:
    settings = Settings(instance_path=tmp_path, redis_url="redis://127.0.0.1:1/0")
    with create_app(settings).app_context(), pytest.raises(VendorRefused, match="DIRECTORY_URL"):
        Directory()
