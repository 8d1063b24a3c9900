"""The template process: forked before the worker has threads, it forks the children that run jobs.

A child forked from a threaded process can hang for ever on a lock that another thread held. This
process has one thread, loads the app before and does nothing but fork and reap.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Death:
    """How a child ended: exit code or signal (the other is 0), and its peak memory in MiB."""

    pid: int
    exit_code: int
    signal: int
    peak_mib: int

    @property
    def reason(self) -> str:
        """The death in words, as it is kept with the job."""
        return f"{self.exit_reason}, peak memory {self.peak_mib} MiB"

    @property
    def exit_reason(self) -> str:
        """The signal or exit code in words."""
        if self.signal:
            return f"killed by {signal.Signals(self.signal).name}"
        return f"exit code {self.exit_code}"


class Template:
    """The worker's handle on the template process."""

    def __init__(self, work: Callable[[Connection], None]) -> None:
        """Fork the template; `work` is what each child does with its end of a pipe."""
        ours, theirs = socket.socketpair()
        self.worker_pid = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            ours.close()
            try:
                _serve(theirs, work)
            finally:
                os._exit(0)
        theirs.close()
        self._control = ours
        self._buffer = b""

    def fileno(self) -> int:
        """The file descriptor that becomes readable when a child has died."""
        return self._control.fileno()

    def fork(self) -> Connection:
        """Fork a child; return our end of its pipe. Raises OSError when the template is gone."""
        ours, theirs = socket.socketpair()
        with theirs:
            socket.send_fds(self._control, [b"f"], [theirs.fileno()])
        return Connection(ours.detach())

    def deaths(self) -> list[Death]:
        """Return the children that died since the last call. Raises OSError without a template."""
        while select.select([self._control], [], [], 0)[0]:
            received = self._control.recv(65536)
            if not received:
                raise ConnectionResetError("the template process is gone")
            self._buffer += received
        *lines, self._buffer = self._buffer.split(b"\n")
        return [Death(**json.loads(line)) for line in lines]

    def close(self) -> None:
        """End the template and, with it, the children."""
        self._control.close()
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


def die_with_parent() -> None:
    """Ask Linux to kill this process when its parent dies; elsewhere the closing pipe must do."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _serve(control: socket.socket, work: Callable[[Connection], None]) -> None:
    parent = os.getppid()
    die_with_parent()
    # Ctrl-C and a supervisor's SIGTERM go to the worker, which ends us when it is done. With
    # SIG_IGN, programs that jobs start would ignore them too: that is kept over execve(2).
    signal.signal(signal.SIGINT, lambda *_: None)
    signal.signal(signal.SIGTERM, lambda *_: None)
    readable, writable = os.pipe()
    os.set_blocking(writable, False)
    os.set_blocking(readable, False)
    signal.set_wakeup_fd(writable, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    while os.getppid() == parent:
        sources: list[Any] = [control, readable]
        ready, _, _ = select.select(sources, [], [], 5)
        if readable in ready:
            os.read(readable, 4096)
            _reap(control)
        if control not in ready:
            continue
        message, fds, _, _ = socket.recv_fds(control, 1, 1)
        if not message:
            return
        if os.fork() == 0:
            os.setpgid(0, 0)  # so that what a job starts can be killed with it
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for fd in (control.fileno(), readable, writable):
                os.close(fd)
            die_with_parent()
            try:
                work(Connection(fds[0]))
            except BaseException:  # of ours, not of a job: those end in `perform`
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        os.close(fds[0])


def _reap(control: socket.socket) -> None:
    while True:
        try:
            pid, status, usage = os.wait4(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        death = {
            "pid": pid,
            "exit_code": os.WEXITSTATUS(status) if os.WIFEXITED(status) else 0,
            "signal": os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0,
            "peak_mib": usage.ru_maxrss // (1024 if sys.platform == "linux" else 1024 * 1024),
        }
        control.sendall(json.dumps(death).encode() + b"\n")
