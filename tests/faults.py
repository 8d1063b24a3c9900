"""Faults: a process that kills itself before or after its n-th call of a script."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any

from jobserver.broker.line import Exchange, Line
from jobserver.broker.scripts import Call, Scripts


def install(fault: str) -> None:
    """Install a fault like `exchange:before:3` in this process and those it forks."""
    script, moment, number = fault.split(":")
    calls_so_far = count(1)
    run_all, send, receive = Scripts.run_all, Line.send, Line.receive

    def is_struck(calls: Sequence[Call]) -> bool:
        return any(name == script for name, _ in calls) and next(calls_so_far) == int(number)

    def run_all_struck(scripts: Scripts, calls: Sequence[Call]) -> list[Any]:
        is_it = is_struck(calls)
        if is_it and moment == "before":
            _strike(fault)
        answers = run_all(scripts, calls)
        if is_it and moment == "after":
            _strike(fault)
        return answers

    awaited: list[bool] = []  # of the exchanges under way, whether it strikes after their answer

    def send_struck(line: Line, call: Call) -> None:
        is_it = is_struck([call])
        if is_it and moment == "before":
            _strike(fault)
        awaited.append(is_it)
        send(line, call)

    def receive_struck(line: Line) -> Exchange:
        exchange = receive(line)
        if awaited.pop(0):
            _strike(fault)
        return exchange

    Scripts.run_all = run_all_struck  # type: ignore[method-assign]
    Line.send = send_struck  # type: ignore[method-assign]
    Line.receive = receive_struck  # type: ignore[method-assign]


def _strike(fault: str) -> None:
    try:
        mark = os.open(Path(os.environ["STRUCK"], fault), os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    except FileExistsError:
        return  # once is enough: each child counts anew
    os.write(mark, str(os.getpid()).encode())
    os.kill(os.getpid(), signal.SIGKILL)
