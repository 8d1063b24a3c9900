"""wsgi.py: what is read before the application is made, and what a bad setting looks like."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def load(directory: Path, *, then: str = "", **settings: str) -> subprocess.CompletedProcess[str]:
    """Import wsgi in a process of its own that was started in `directory`."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", f"import sys, wsgi\n{then}"],
        cwd=directory,
        env={"PATH": os.defpath, "PYTHONPATH": str(ROOT), **settings},
        capture_output=True,
        text=True,
        check=False,
    )


def test_env_files_are_read_before_rq_takes_its_prefix(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("RQ_KEY_PREFIX=shop\nPORT=4000\n")
    then = (
        "from rq.defaults import RQ_KEY_PREFIX\n"
        "print(RQ_KEY_PREFIX, wsgi.app.extensions['jobserver'].config.port)"
    )
    assert load(tmp_path, then=then).stdout == "shop 4000\n"
    assert load(tmp_path, then=then, PORT="5000").stdout == "shop 5000\n"


def test_the_worker_is_not_loaded(tmp_path: Path) -> None:
    then = "print([name for name in sys.modules if name.startswith('jobserver.worker')])"
    done = load(tmp_path, then=then)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_loading_writes_nothing(tmp_path: Path) -> None:
    assert load(tmp_path).returncode == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("variable", ["PORT", "RESYNC_HOURS", "QUEUE_PRODUCT_SYNC_ATTEMPTS"])
def test_a_bad_variable_is_one_line(tmp_path: Path, variable: str) -> None:
    done = load(tmp_path, **{variable: "x"})
    assert done.returncode == 1
    assert done.stderr.startswith(f"jobserver: {variable}: 'x' is not accepted; use a")
    assert len(done.stderr.splitlines()) == 1
