"""README.md tells the truth: its commands, run in a fresh clone, end with a finished sync."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.settings import Settings
from tests.acceptance.conftest import ROOT, wait_until
from tests.acceptance.test_make_run import SETTINGS, free_port

README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```sh\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


@pytest.fixture
def clone(tmp_path: Path) -> Iterator[Path]:
    """A fresh clone of what is committed, ended with the test."""
    target = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(target)], check=True)
    yield target
    shutil.rmtree(target / ".venv", ignore_errors=True)


def test_the_settings_table_is_what_the_code_reads() -> None:
    assert README.count("| Variable |") == README.count(Settings.table()) == 1


def test_what_it_links_to_is_there() -> None:
    linked = re.findall(r"\]\(([^)#:]+)\)", README)
    assert linked
    assert [path for path in linked if not (ROOT / path).exists()] == []


def test_it_fits_in_250_lines() -> None:
    assert len(README.splitlines()) <= 250


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_its_commands_lead_to_a_finished_sync(clone: Path) -> None:
    port = str(free_port())
    environ = {name: value for name, value in os.environ.items() if not SETTINGS.match(name)}
    environ |= {"PORT": port}
    environ.pop("VIRTUAL_ENV", None)
    start, sync, own = (block.replace("3000", port) for block in BLOCKS[:3])
    first = start.splitlines()[0].partition("#")[0].strip()
    assert first == "make run"

    def shell(script: str) -> str:
        done = subprocess.run(
            ["bash", "-ec", script], cwd=clone, env=environ, capture_output=True, text=True,
            timeout=120, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    log = clone / "log"
    with log.open("wb") as output:
        system = subprocess.Popen(
            first.split(), cwd=clone, env=environ, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        wait_until(lambda: "jobserver runs at" in log.read_text(), seconds=600)
        assert "202 ACCEPTED" in shell(sync).upper()
        poll = next(line for line in sync.splitlines() if line.startswith("curl -s "))
        token = next(line for line in sync.splitlines() if line.startswith("TOKEN="))
        wait_until(lambda: '"completed"' in shell(f"{token}\n{poll}"), seconds=60)
        catalogue = "Handle,Title,Option1 Name,Option1 Value,Variant Price\nmug,Mug,Title,One,5\n"
        (clone / "products.csv").write_text(catalogue)
        assert "1 products created" in shell(own)
    finally:
        system.send_signal(signal.SIGTERM)
        assert system.wait(timeout=20) == 0 or system.returncode == -signal.SIGTERM
