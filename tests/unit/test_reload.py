"""What `make dev` watches."""

from __future__ import annotations

import os
from pathlib import Path

from jobserver.reload import changes


def test_sources_are_watched_and_what_a_run_writes_is_not(tmp_path: Path) -> None:
    watched = ["wsgi.py", "jobs/follows/sync.py", "jobs/claim.lua", "templates/home.html"]
    other = [".venv/lib/x.py", "instance/x.py", "tests/test_x.py", "README.md", "jobs/x.pyc"]
    for name in watched + other:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert {str(path.relative_to(tmp_path)) for path in changes(tmp_path)} == set(watched)


def test_a_touched_a_new_and_a_deleted_source_are_changes(tmp_path: Path) -> None:
    source = tmp_path / "a.py"
    source.touch()
    first = changes(tmp_path)
    assert changes(tmp_path) == first
    os.utime(source, ns=(1, 1))
    touched = changes(tmp_path)
    assert touched != first
    (tmp_path / "b.py").touch()
    assert changes(tmp_path) != touched
    (tmp_path / "b.py").unlink()
    assert changes(tmp_path) == touched
