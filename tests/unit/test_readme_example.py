"""README's job type and README's test of it work as they stand there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_job_type_of_the_readme_passes_the_test_of_the_readme(tmp_path: Path) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.M | re.S)
    declared, tested = blocks[:2]
    package = tmp_path / "jobs" / "greetings"
    package.mkdir(parents=True)
    for directory in (package.parent, package):
        (directory / "__init__.py").touch()
    (package / "jobs.py").write_text(declared)
    (tmp_path / "shop.py").write_text(
        "from flask import Flask\n"
        "from jobserver import JobServer\n"
        "app = Flask(__name__)\n"
        'JobServer(app, jobs=["jobs.greetings.jobs"])\n'
    )
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["jobserver.testing"]\n')
    (tmp_path / "test_greeting.py").write_text(tested)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", tmp_path],
        cwd=tmp_path,
        env={"JOBSERVER_APP": "shop:app", "PYTHONPATH": f"{tmp_path}:{ROOT}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
