"""A process that commits notes, each with its job, until it is killed; run by the outbox's tests.

`python -m tests.writing_host DATABASE REDIS POINT COUNT`: every third note is rolled back. With
POINT `push`, `delete` or `forget` it kills itself at the last note, right before that step; with
`none` it just goes on.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence

from sqlalchemy import insert
from sqlalchemy.orm import Session

from jobserver.broker import Answer, Broker, EnqueueRequest, connect
from jobserver.broker.job import envelope
from jobserver.ids import new_id
from jobserver.ledger import Outbox
from tests.databases import host_engine, notes, settle


class Dying(Broker):
    """A broker whose process dies at a chosen step."""

    point = "none"

    def enqueue(self, requests: Sequence[EnqueueRequest], *, call_ttl: float = 0) -> list[Answer]:
        """Push, unless that is the point; and die after it when `delete` is."""
        self._reach("push")
        answers = super().enqueue(requests, call_ttl=call_ttl)
        self._reach("delete")
        return answers

    def forget_calls(self, calls: Sequence[str]) -> None:
        """Forget, unless that is the point."""
        self._reach("forget")
        super().forget_calls(calls)

    def _reach(self, point: str) -> None:
        if point == self.point:
            os.kill(os.getpid(), signal.SIGKILL)


def request(job_id: str) -> EnqueueRequest:
    """Return the request for a note's job."""
    return EnqueueRequest(
        id=job_id,
        call=new_id(),
        run=new_id(),
        type="ticking.beat",
        origin="clock",
        data=envelope("jobserver.runner.run", "ticking.beat", b'{"hand":"note"}'),
        timeout=60,
        attempts=1,
    )


def main(database: str, redis: str, point: str, count: int) -> None:
    """Write `count` notes."""
    broker = Dying(connect(redis))
    outbox = Outbox(broker)
    name = f"{os.getpid()}"
    with Session(host_engine(database)) as session:
        for number in range(count):
            if number == count - 1:
                settle()
                broker.point = point
            note = f"note-{name}-{number}"
            session.execute(insert(notes).values(text=note))
            outbox.store(session, [request(note)])
            if number % 3 == 1:
                session.rollback()
            else:
                session.commit()
            print(note, flush=True)
        settle()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
