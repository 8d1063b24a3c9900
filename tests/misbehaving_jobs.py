"""Job types that misbehave, and the ways they do; each type for both executors."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from jobserver import Policy, Queue, cancel_requested, job, progress
from tests.engine_jobs import KEPT, PROCESSES, THREADS, gate, journal, note

LIMITED = Queue("limited", memory_limit=300, retention=KEPT)

ONCE = Policy(attempts=1, timeout=1)


def heed(how: str) -> str:
    """Run until it is canceled, which it learns in one way or another, or not at all."""
    note("begin")
    try:
        while how == "report":
            progress(50)
            gate.wait(0.01)
        while how == "ask" and not cancel_requested():
            gate.wait(0.01)
        while how == "swallow":
            with suppress(BaseException):
                gate.wait(0.01)
        if how == "sleep":
            time.sleep(60)
    finally:
        note("end")
    return how


heed_in_process = job(queue=PROCESSES, name="misbehaving_jobs.heed_in_process")(heed)
heed_in_thread = job(queue=THREADS, name="misbehaving_jobs.heed_in_thread")(heed)


def misbehave(how: str) -> object:
    """End in an unusual way, or not at all."""
    note("begin")
    endings: dict[str, Callable[[], object]] = {
        # It does not end by itself.
        "loop": loop,
        "sleep": lambda: time.sleep(60),
        "swallow": lambda: swallow(BaseException),
        "swallow-exceptions": lambda: swallow(Exception),
        "hang-in-c": lambda: ctypes.CDLL(None).sleep(60),
        "stop": stop,
        # It returns or raises what no job should.
        "object": object,
        "key": lambda: {object(): 1},
        "large": lambda: "x" * 1024 * 1024,
        "base": lambda: throw(BaseException("unusual")),
        "exit": lambda: sys.exit("unusual"),
        "interrupt": lambda: throw(KeyboardInterrupt("unusual")),
        "generator": lambda: throw(GeneratorExit("unusual")),
        "recursion": recursion,
        "group": lambda: throw(BaseExceptionGroup("unusual", [KeyboardInterrupt()])),
        "program": ended_program,
        "leave-a-thread": leave_a_thread,
        # It ends its process.
        "exit-0": lambda: os._exit(0),
        "exit-3": lambda: os._exit(3),
        "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
        "segfault": lambda: ctypes.string_at(0),
        "abort": os.abort,
        "other-program": lambda: os.execvp("sleep", ["sleep", "60"]),  # noqa: S606
        "heir": heir,
        "close": lambda: os.closerange(3, 4096),
        "hold-the-gil": hold_the_gil,
    }
    return endings[how]()


def throw(error: BaseException) -> None:
    """Raise an error."""
    raise error


def loop() -> None:
    """Never come to an end."""
    while True:
        pass


def swallow(kind: type[BaseException]) -> None:
    """Go on, whatever is raised."""
    while True:
        try:
            gate.wait(0.01)
        except kind:
            note("swallowed")


def ended_program() -> int:
    """End a program that this job started, as a supervisor would; return its exit code."""
    with subprocess.Popen(["sleep", "60"]) as program:
        program.terminate()
        return program.wait()


def stop() -> None:
    """Start a program, and stand still from outside, as under a debugger."""
    program = subprocess.Popen(["sleep", "60"])
    note(f"program {program.pid}")
    os.kill(os.getpid(), signal.SIGSTOP)


def leave_a_thread() -> None:
    """Leave a thread behind for which a process waits at its exit."""
    threading.Thread(target=time.sleep, args=(60,), daemon=False).start()


def recursion() -> None:
    """Go deeper, without end."""
    recursion()


def heir() -> None:
    """Leave a process behind that has open all that is open here, and crash."""
    pid = os.fork()
    if pid == 0:
        time.sleep(60)
    else:
        note(f"heir {pid}")
    os._exit(4)


def hold_the_gil() -> None:
    """Stand still in C, as a careless extension does: no signal handler of Python's runs."""
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    ctypes.PyDLL(None).sleep(60)


misbehave_in_process = job(
    queue=PROCESSES, name="misbehaving_jobs.misbehave_in_process", policy=ONCE
)(misbehave)
misbehave_in_thread = job(queue=THREADS, name="misbehaving_jobs.misbehave_in_thread", policy=ONCE)(
    misbehave
)


def meet(count: int) -> None:
    """End when `count` jobs are here at the same time."""
    note("here")
    while len([line for line in journal() if line[3] == "here"]) < count:
        gate.wait(0.01)


meet_in_process = job(queue=PROCESSES, name="misbehaving_jobs.meet_in_process")(meet)
meet_in_thread = job(queue=THREADS, name="misbehaving_jobs.meet_in_thread")(meet)


@job(queue=LIMITED, policy=Policy(attempts=1))
def fill(mib: int) -> int:
    """Take memory in small pieces, up to a number of MiB."""
    return len([bytes(1024 * 1024) for _ in range(mib)])
