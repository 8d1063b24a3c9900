"""What plain RQ enqueues keeps its meaning under our worker: callbacks, repeats, groups, …"""

from __future__ import annotations

import json
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from redis import Redis
from rq import Queue as RQQueue
from rq import Repeat, Retry
from rq.group import Group
from rq.job import Callback, Dependency
from rq.job import Job as RQJob
from rq.serializers import JSONSerializer
from rq.webhook import Webhook

from jobserver import JobServer
from jobserver.broker import keys
from tests.acceptance.conftest import StartWorker, wait_until
from tests.engine_jobs import journal
from tests.hands import events, places

RUN = "jobserver.runner.run"

Enqueue = Callable[..., RQJob]


@pytest.fixture
def enqueue(redis: Redis) -> Enqueue:
    """Return a function that enqueues one of our types as plain RQ does."""

    def enqueue(name: str, payload: dict, *, queue: str = "in-threads", **options: object) -> RQJob:
        rq = RQQueue(queue, connection=redis, serializer=JSONSerializer)
        return rq.enqueue(RUN, args=(f"engine_jobs.{name}", payload), **options)

    return enqueue


@pytest.fixture
def address() -> Iterator[tuple[str, list[dict]]]:
    """The URL of a server that takes webhooks, and what it got."""
    got: list[dict] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/", got
    server.shutdown()
    thread.join()
    server.server_close()


def notes() -> list[str]:
    return sorted(line[3] for line in journal())


def test_callbacks_of_plain_rq_are_called(
    server: JobServer, redis: Redis, start_worker: StartWorker, enqueue: Enqueue
) -> None:
    path = "tests.engine_jobs."
    both = {
        "on_success": Callback(f"{path}on_success"),
        "on_failure": Callback(f"{path}on_failure"),
    }
    good = enqueue("add", {"a": 1, "b": 2}, **both)
    child = enqueue("linger", {"seconds": 0}, queue="in-processes", **both)
    bad = enqueue("fail_slowly", {}, retry=Retry(max=1), **both)
    upset = enqueue(
        "add",
        {"a": 1},
        on_success=Callback(f"{path}on_success_badly"),
        on_failure=both["on_failure"],
    )
    evil = enqueue("add", {"a": 1}, on_success=Callback("os.getcwd"))
    nested = enqueue("add", {"a": 1}, on_failure=Callback("tests.engine_jobs.os.getcwd"))
    foreign = enqueue("add", {"a": 1}, on_stopped=Callback("tests.engine_jobs.current_run"))
    assert start_worker("--burst").wait(timeout=30) == 0
    found = {line for line in notes() if line not in ("begin", "end")}
    pid = server.fetch(child.id).result
    assert found == {
        f"success {good.id} 3",
        f"success {child.id} {pid}",
        f"failure {bad.id} always",
        f"failure {upset.id} no receipt",
    }
    assert len([line for line in notes() if line.startswith(f"failure {bad.id}")]) == 2
    assert server.fetch(good.id).status == "completed"
    assert good.latest_result().return_value == 3  # type: ignore[union-attr]
    failed = server.fetch(bad.id)
    assert (failed.status, failed.attempt, failed.attempts) == ("failed", 2, 2)
    assert (server.fetch(upset.id).status, server.fetch(upset.id).error_type) == (
        *("failed", "LookupError"),
    )
    for job in (evil, nested, foreign):
        refused = server.fetch(job.id)
        assert (refused.status, refused.error_type) == ("failed", "CallbackRefused")
        assert "is no function of a module with job types" in (refused.error_message or "")
    assert redis.zcard(f"{keys.OURS}aftermath") == 0


def test_repeats_groups_and_webhooks_of_plain_rq_keep_their_meaning(
    server: JobServer,
    redis: Redis,
    start_worker: StartWorker,
    enqueue: Enqueue,
    address: tuple[str, list[dict]],
) -> None:
    url, got = address
    hooks = [Webhook(url, status, method="POST") for status in ("finished", "failed")]
    again = enqueue("named", {"name": "again"}, repeat=Repeat(times=2, interval=0))
    later = enqueue("named", {"name": "later"}, repeat=Repeat(times=1, interval=3600))
    good = enqueue("add", {"a": 1}, webhooks=hooks)
    bad = enqueue("discard", {}, webhooks=hooks)
    rq = RQQueue("in-threads", connection=redis, serializer=JSONSerializer)
    data = [
        RQQueue.prepare_data(RUN, args=("engine_jobs.add", {"a": number})) for number in range(3)
    ]
    group = Group.create(redis)
    group.enqueue_many(rq, data)
    assert start_worker("--burst").wait(timeout=30) == 0
    assert [line[0] for line in journal()].count(again.id) == 3
    assert [line[0] for line in journal()].count(later.id) == 1
    done = server.fetch(again.id)
    assert (done.status, done.attempt) == ("completed", 1)
    assert len(again.results()) == 3
    assert places(redis, later.id) == ["scheduled:in-threads"]
    assert places(redis, again.id) == ["finished:in-threads"]
    told = {hook["job_id"]: hook for hook in got}
    assert {job_id: hook["status"] for job_id, hook in told.items()} == {
        good.id: "finished",
        bad.id: "failed",
    }
    assert len(got) == 2
    assert "Discard: no use" in told[bad.id]["exc_info"]
    members = [server.fetch(job.id) for job in group.get_jobs()]
    assert sorted(job.result for job in members) == [0, 1, 2]


def test_dependents_start_or_end_with_what_they_wait_for(
    server: JobServer, redis: Redis, start_worker: StartWorker, enqueue: Enqueue
) -> None:
    ours = server.enqueue("engine_jobs.named", {"name": "parent"})
    bad = server.enqueue("engine_jobs.discard")
    theirs = enqueue("add", {"a": 1})
    held = server.enqueue("engine_jobs.add", {"a": 1}, delay=3600)
    after_ours = enqueue("named", {"name": "after"}, depends_on=ours.id)
    after_both = enqueue(
        "linger", {"seconds": 0}, queue="in-processes", depends_on=[ours.id, theirs]
    )
    last = enqueue("add", {"a": 5}, depends_on=after_both)
    doomed = enqueue("add", {"a": 1}, depends_on=[bad.id, theirs.id])
    doomed_too = enqueue("add", {"a": 1}, depends_on=doomed)
    bears = enqueue("add", {"a": 6}, depends_on=Dependency([bad.id], allow_failure=True))
    dropped = enqueue("add", {"a": 1}, depends_on=Dependency([held.id], allow_failure=True))
    assert server.fetch(after_ours.id).raw_status == "deferred"
    server.cancel(held.id)
    assert start_worker("--burst").wait(timeout=30) == 0
    ended = {
        name: (server.fetch(job.id).status, server.fetch(job.id).error_type)
        for name, job in {
            **{"after_ours": after_ours, "after_both": after_both, "last": last, "bears": bears},
            **{"doomed": doomed, "doomed_too": doomed_too, "dropped": dropped},
        }.items()
    }
    assert ended == {
        **dict.fromkeys(("after_ours", "after_both", "last", "bears"), ("completed", None)),
        **dict.fromkeys(("doomed", "doomed_too"), ("failed", "DependencyFailed")),
        "dropped": ("canceled", "DependencyFailed"),
    }
    assert places(redis, doomed.id) == ["failed:in-threads"]
    assert places(redis, dropped.id) == ["canceled:in-threads"]
    (end,) = events(redis, doomed.id)
    assert (end["event"], end["reason"]) == ("failed", "dependency")
    assert bad.id in end["error_message"]
    late = enqueue("add", {"a": 1}, depends_on=bad.id)  # it has failed already: nobody tells
    assert start_worker("--burst").wait(timeout=30) == 0
    assert server.fetch(late.id).status == "failed"


@pytest.mark.parametrize(
    "faults",
    [
        pytest.param(["aftermath:after:2"], id="one"),
        pytest.param(
            [
                f"{script}:{moment}:{number}"
                for script, numbers in (("aftermath", range(1, 12)), ("forfeit", [1]))
                for number in numbers
                for moment in ("before", "after")
            ],
            id="many",
            marks=[pytest.mark.soak, pytest.mark.timeout(600)],
        ),
    ],
)
def test_a_worker_may_die_anywhere_in_the_aftermath(
    server: JobServer,
    redis: Redis,
    start_worker: StartWorker,
    enqueue: Enqueue,
    tmp_path: Path,
    faults: list[str],
) -> None:
    good, bad, again = [], [], []
    lasts = {"retry": Retry(max=20)}  # its worker's death costs an attempt
    for fault in faults:
        parent = enqueue("add", {"a": 1}, **lasts)
        failed = enqueue("discard", {}, **lasts)
        for _ in range(2):
            good.append(enqueue("named", {"name": "after"}, depends_on=parent, **lasts))
        bad.append(enqueue("named", {"name": "never"}, depends_on=failed))
        again.append(enqueue("named", {"name": "again"}, repeat=Repeat(times=2), **lasts))
        worker = start_worker("in-threads", FAULT=fault, STRUCK=str(tmp_path), LEASE_SECONDS="1")
        assert worker.wait(timeout=20) == -signal.SIGKILL
        assert (tmp_path / fault).exists()
    start_worker("in-threads", LEASE_SECONDS="1")
    wait_until(lambda: all(server.fetch(job.id).is_ended for job in (*good, *bad)))
    wait_until(lambda: {redis.hget(keys.job(job.id), "repeats_left") for job in again} == {b"0"})
    wait_until(lambda: all(server.fetch(job.id).is_ended for job in again))
    assert {server.fetch(job.id).status for job in (*good, *again)} == {"completed"}
    assert {server.fetch(job.id).error_type for job in bad} == {"DependencyFailed"}
    begun = Counter(line[0] for line in journal())
    # A run whose worker died before it could hand in its end is repeated: one more at most.
    assert all(1 <= begun[job.id] <= 2 for job in good)
    assert all(3 <= begun[job.id] <= 4 for job in again)
    wait_until(lambda: not redis.exists(f"{keys.OURS}aftermath"))
    for job in (*good, *bad, *again):
        assert len(places(redis, job.id)) == 1


def test_a_job_of_plain_rq_outlives_its_worker(
    server: JobServer, redis: Redis, start_worker: StartWorker, enqueue: Enqueue
) -> None:
    job = enqueue(
        "linger",
        {"seconds": 0.5},
        queue="in-processes",
        retry=Retry(max=2),
        on_success=Callback("tests.engine_jobs.on_success"),
    )
    waits = enqueue("add", {"a": 1}, depends_on=job)
    doomed = start_worker("in-processes", LEASE_SECONDS="1")
    wait_until(lambda: len(journal()) == 1)
    doomed.send_signal(signal.SIGKILL)
    start_worker("in-processes", "in-threads", LEASE_SECONDS="1")
    wait_until(lambda: server.fetch(waits.id).is_ended, seconds=30)
    done = server.fetch(job.id)
    assert (done.status, done.attempt, done.attempts) == ("completed", 2, 3)
    assert [line[3] for line in journal()] == [
        *("begin", "begin", "end", f"success {job.id} {done.result}"),
    ]
