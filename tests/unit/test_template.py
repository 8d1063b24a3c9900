"""The template process: what ends a child is told, a mistake of ours with its traceback."""

from __future__ import annotations

import select
from multiprocessing.connection import Connection

import pytest

from jobserver.worker.template import Template


def test_a_child_that_fails_outside_its_job_says_why(capfd: pytest.CaptureFixture[str]) -> None:
    def fail(pipe: Connection) -> None:
        raise LookupError("what happened here")

    template = Template(fail)
    try:
        pipe = template.fork()
        assert select.select([template], [], [], 10)[0]
        (death,) = template.deaths()
    finally:
        template.close()
    pipe.close()
    assert death.exit_code == 1
    assert "LookupError: what happened here" in capfd.readouterr().err
