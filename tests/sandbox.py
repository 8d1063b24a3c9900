"""The vendors' sandbox as a process of its own, and what a test tells and asks it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from socket import create_server
from typing import Any

import httpx
import pytest

from jobs.sandbox.door import TOKEN

ROOT = Path(__file__).parents[1]


class Sandbox:
    """A running sandbox; `client` shows the right token."""

    token = TOKEN

    def __init__(self, url: str) -> None:
        self.url = url
        self.client = httpx.Client(base_url=url, headers={"Authorization": f"Bearer {TOKEN}"})

    def steer(self, vendor: str, **behaviour: Any) -> dict[str, Any]:
        """Let a vendor behave so from now on, and forget all requests."""
        answer = self.client.post(f"/_sandbox/{vendor}", json=behaviour)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def requests(self) -> list[dict[str, Any]]:
        """Return what the vendors were asked, oldest first."""
        return list(self.client.get("/_sandbox/requests").json()["requests"])


@contextmanager
def started() -> Iterator[Sandbox]:
    """Run the sandbox."""
    # It inherits a socket that listens already: no port to lose, nothing to wait for.
    with create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        options = ["--worker-class", "gthread", "--threads", "8", "--no-control-socket"]
        process = subprocess.Popen(
            [
                *(Path(sys.executable).parent / "gunicorn", "--bind", f"fd://{listening.fileno()}"),
                *(*options, "--log-level", "warning", "jobs.sandbox:create_app()"),
            ],
            cwd=ROOT,
            pass_fds=[listening.fileno()],
        )
    sandbox = Sandbox(f"http://127.0.0.1:{port}")
    try:
        yield sandbox
    finally:
        sandbox.client.close()
        process.terminate()
        process.wait(timeout=30)


@pytest.fixture(scope="session")
def sandbox_process() -> Iterator[Sandbox]:
    """Start the sandbox for this session."""
    with started() as sandbox:
        yield sandbox


@pytest.fixture
def sandbox(sandbox_process: Sandbox) -> Sandbox:
    """The sandbox, every vendor as at first."""
    for vendor in ("directory", "tracker"):
        sandbox_process.steer(vendor)
    return sandbox_process
