"""Many processes that enqueue the same few keys: `python -m tests.enqueuer DIRECTORY COUNT ROUNDS`.

Each of the COUNT processes leaves its answers in a file: word, job id, run and the payload's value.
"""

from __future__ import annotations

import multiprocessing
import random
import sys
from multiprocessing.synchronize import Barrier
from pathlib import Path

from tests.engine_app import create_app

NAMES = 5


def main(directory: Path, count: int, rounds: int) -> None:
    """Start the processes, all at work at the same time; end as they did."""
    forking = multiprocessing.get_context("fork")  # this process has one thread and no connection
    start = forking.Barrier(count)
    processes = [
        forking.Process(target=enqueue, args=(directory / str(seed), seed, rounds, start))
        for seed in range(count)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    sys.exit(max(process.exitcode or 0 for process in processes))


def enqueue(path: Path, seed: int, rounds: int, start: Barrier) -> None:
    """Enqueue `rounds` times, at random over the keys, both policies, priorities and delays."""
    draw = random.Random(seed)  # noqa: S311 (no secret)
    server = create_app().extensions["jobserver"]
    server.broker.ping()
    start.wait()
    with path.open("w") as answers:
        for number in range(rounds):
            kind = server.registry.job_type(draw.choice(("engine_jobs.named", "engine_jobs.rerun")))
            settings = server.settings(
                kind,
                priority=draw.choice(("high", "normal", "low")),
                due=draw.choice(("", "", "", "+1")),
                attempts=draw.choice((1, 2, 3)),
            )
            value = seed * rounds + number
            payload = {"name": str(draw.randrange(NAMES)), "value": value}
            request = server.request(kind, payload, settings=settings)
            # Each third call is sent twice, as after a lost answer.
            for _ in range(1 + (number % 3 == 0)):
                (answer,) = server.broker.enqueue([request])
                answers.write(f"{answer.word} {request.id} {answer.run} {value}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
