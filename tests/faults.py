"""Faults: a process that kills itself before or after its n-th call of a script."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any

from jobserver.broker.scripts import Call, Scripts


def install(fault: str) -> None:
    """Install a fault like `finish:before:3` in this process and those it forks."""
    script, moment, number = fault.split(":")
    calls_so_far = count(1)
    run_all = Scripts.run_all

    def struck(scripts: Scripts, calls: Sequence[Call]) -> list[Any]:
        is_struck = any(name == script for name, _ in calls) and next(calls_so_far) == int(number)
        if is_struck and moment == "before":
            _strike(fault)
        answers = run_all(scripts, calls)
        if is_struck and moment == "after":
            _strike(fault)
        return answers

    Scripts.run_all = struck  # type: ignore[method-assign]


def _strike(fault: str) -> None:
    try:
        mark = os.open(Path(os.environ["STRUCK"], fault), os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    except FileExistsError:
        return  # once is enough: each child counts anew
    os.write(mark, str(os.getpid()).encode())
    os.kill(os.getpid(), signal.SIGKILL)
