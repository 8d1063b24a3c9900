"""Dead letters are retried where they are: in Redis, or anew from the ledger's payload."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from redis import Redis
from sqlalchemy import Engine

from jobserver import JobServer, retries
from jobserver.broker import keys
from jobserver.errors import PayloadInvalid, WrongState
from jobserver.ledger import runs
from jobserver.ledger.runs import Run, Sought
from jobserver.recorder import Recorder
from jobserver.retries import Tally
from tests.engine_jobs import THREADS
from tests.hands import Hand

NAMED = "engine_jobs.named"


@pytest.fixture
def ledgered(server: JobServer, engine: Engine) -> JobServer:
    """The engine's test app with a ledger."""
    server.db = engine
    return server


@pytest.fixture
def hand(ledgered: JobServer) -> Hand:
    return Hand(ledgered.broker, [THREADS])


@pytest.fixture
def recorder(ledgered: JobServer, engine: Engine) -> Iterator[Recorder]:
    recorder = Recorder(ledgered, engine)
    yield recorder
    recorder.close()


@pytest.fixture
def fail(ledgered: JobServer, hand: Hand, recorder: Recorder) -> Any:
    """Returns failed runs, as they are on record."""

    def fail(payload: dict[str, Any], *, type_name: str = NAMED, **options: Any) -> Run:
        made = ledgered.enqueue(type_name, payload, **options)
        (claim,) = [claim for claim in hand.claim(threads=50) if claim.id == made.id]
        hand.end(claim, "failed")
        recorder.work()
        run = runs.get(ledgered.db, made.run_id)
        assert run is not None and run.state == "failed"
        return run

    return fail


def forget(redis: Redis, *found: Run) -> None:
    """Let Redis let the jobs go, as it does when they expire."""
    for run in found:
        assert redis.delete(keys.job(run.job)) == 1
        redis.delete(keys.results(run.job))


def dead(server: JobServer) -> list[str]:
    return [run.run for run in runs.find(server.db, Sought(is_dead=True))[0]]


def test_redis_goes_on_with_what_it_has(ledgered: JobServer, fail: Any, recorder: Recorder) -> None:
    run = fail({"name": "a"})
    assert dead(ledgered) == [run.run]
    assert retries.retry_all(ledgered, Sought()) == Tally(retried=1)
    job = ledgered.fetch("named-a")
    assert (job.run_id, job.status, job.attempt, job.attempts) == (run.run, "waiting", 1, 3)
    assert retries.retry_all(ledgered, Sought()) == Tally(skipped=1)  # nothing is recorded yet
    recorder.work()
    assert dead(ledgered) == []
    assert retries.retry_all(ledgered, Sought()) == Tally()


def test_what_redis_let_go_begins_anew_as_it_was(
    ledgered: JobServer, fail: Any, recorder: Recorder, redis: Redis, hand: Hand
) -> None:
    keyed = fail({"name": "a", "value": 7}, owner="ada", priority="high", attempts=1)
    unkeyed = fail({"text": "hello"}, type_name="engine_jobs.say")
    own_key = fail({"text": "hi"}, type_name="engine_jobs.say", key="a key / of my own")
    forget(redis, keyed, unkeyed, own_key)
    assert retries.retry_all(ledgered, Sought()) == Tally(enqueued=3)
    for run in (keyed, unkeyed, own_key):
        job = ledgered.fetch(run.job)
        assert job.run_id != run.run
        assert (job.payload, job.owner, job.key, job.priority, job.status, job.attempt) == (
            *(run.payload, run.owner, run.key, run.priority, "waiting", 0),
        )
    assert retries.retry_all(ledgered, Sought()) == Tally(skipped=3)
    hand.end_many([(claim, "completed") for claim in hand.claim(threads=3)])
    assert ledgered.clean("in-threads", older_than=0, states=["completed"]) == 3
    # Not even now that nothing of them is left: their calls are remembered.
    retries.retry_all(ledgered, Sought())
    assert hand.claim(threads=3) == []
    recorder.work()
    assert dead(ledgered) == []


def test_a_job_that_fails_again_is_one_dead_letter(
    ledgered: JobServer, fail: Any, recorder: Recorder, hand: Hand
) -> None:
    first = fail({"name": "a"})
    retries.retry_all(ledgered, Sought())
    hand.end(hand.take(), "failed")
    recorder.work()
    assert dead(ledgered) == [first.run]
    second = fail({"name": "a"})
    assert second.run != first.run
    assert dead(ledgered) == [second.run]


def test_a_later_run_that_is_not_on_record_yet_is_left_alone(
    ledgered: JobServer, fail: Any, hand: Hand
) -> None:
    fail({"name": "a"})
    ledgered.enqueue(NAMED, {"name": "a"})
    hand.end(hand.take(), "failed")
    assert retries.retry_all(ledgered, Sought()) == Tally(skipped=1)
    assert ledgered.fetch("named-a").status == "failed"


def test_those_who_retry_at_once_enqueue_nothing_twice(
    ledgered: JobServer, fail: Any, redis: Redis, hand: Hand
) -> None:
    made = [fail({"name": str(number)}) for number in range(12)]
    forget(redis, *made[::2])
    with ThreadPoolExecutor(4) as pool:
        tallies = list(pool.map(lambda _: retries.retry_all(ledgered, Sought()), range(4)))
    assert sum(tally.retried for tally in tallies) == 6
    assert sum(tally.enqueued for tally in tallies) == 6
    claims = hand.claim(threads=50)
    assert sorted(claim.id for claim in claims) == sorted(run.job for run in made)


def test_what_the_ledger_could_not_keep_is_refused(
    ledgered: JobServer, fail: Any, redis: Redis, hand: Hand
) -> None:
    large = fail({"text": "x" * 5000}, type_name="engine_jobs.say")
    secret = fail({"user": "ada", "password": "hunter22"}, type_name="engine_jobs.sign_in")
    good = fail({"name": "a"})
    forget(redis, large, secret, good)
    tally = retries.retry_all(ledgered, Sought())
    assert (tally.enqueued, tally.refused) == (1, 2)
    details = {one.run: one.detail for one in tally.refusals}
    assert "too large" in details[large.run]
    assert "must not know" in details[secret.run]
    assert [claim.id for claim in hand.claim(threads=3)] == ["named-a"]
    with pytest.raises(PayloadInvalid, match="give one with the retry"):
        retries.retry(ledgered, secret)
    given = {"user": "ada", "password": "correct"}
    assert retries.retry(ledgered, secret, payload=given).status == "waiting"
    assert json.loads(hand.take().data)[2][1] == given


def test_a_key_that_the_ledger_could_not_keep_makes_no_job_of_another_key(
    ledgered: JobServer, fail: Any, redis: Redis
) -> None:
    run = fail({"name": "x"}, key="k" * 3000)
    forget(redis, run)
    with pytest.raises(PayloadInvalid, match="key"):
        retries.retry(ledgered, run)


def test_an_edited_payload_is_checked_and_makes_a_new_run(
    ledgered: JobServer, fail: Any, recorder: Recorder
) -> None:
    run = fail({"name": "a"}, owner="ada")
    with pytest.raises(PayloadInvalid):
        retries.retry(ledgered, run, payload={"name": "a", "value": "much"})
    assert ledgered.fetch("named-a").run_id == run.run
    job = retries.retry(ledgered, run, payload={"name": "a", "value": 7})
    assert (job.id, job.payload, job.owner) == ("named-a", {"name": "a", "value": 7}, "ada")
    assert ledgered.fetch("named-a").run_id == job.run_id != run.run
    recorder.work()
    assert dead(ledgered) == []
    with pytest.raises(WrongState, match="has run since"):
        retries.retry(ledgered, run, payload={"name": "a", "value": 8})


def test_another_key_in_an_edited_payload_is_another_job(
    ledgered: JobServer, fail: Any, recorder: Recorder
) -> None:
    run = fail({"name": "a"})
    assert retries.retry(ledgered, run, payload={"name": "b"}).id == "named-b"
    recorder.work()
    assert dead(ledgered) == []
    own = fail({"name": "c"}, key="mine")
    assert retries.retry(ledgered, own, payload={"name": "d"}).id == "mine"


def test_only_the_last_run_of_a_job_that_failed_is_retried(
    ledgered: JobServer, fail: Any, recorder: Recorder, redis: Redis, hand: Hand
) -> None:
    old, new = fail({"name": "a"}), fail({"name": "a"})
    with pytest.raises(WrongState, match=new.run):
        retries.retry(ledgered, old)
    forget(redis, new)
    with pytest.raises(WrongState, match=new.run):
        retries.retry(ledgered, old)
    assert retries.retry(ledgered, new).id == "named-a"
    hand.end(hand.take())
    recorder.work()
    done = runs.latest(ledgered.db, "named-a")
    assert done is not None
    with pytest.raises(WrongState, match="is completed"):
        retries.retry(ledgered, done)


def test_many_are_retried_and_discarded_batch_by_batch(
    ledgered: JobServer,
    fail: Any,
    recorder: Recorder,
    redis: Redis,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(retries, "BATCH", 2)
    monkeypatch.setattr(retries, "MOST", 4)
    made = [fail({"name": name}) for name in "abcde"]
    forget(redis, *made[::2])
    assert retries.retry_all(ledgered, Sought()) == Tally(retried=2, enqueued=2, more=True)
    recorder.work()
    assert dead(ledgered) == [made[0].run]
    assert retries.retry_all(ledgered, Sought(queue="in-processes")) == Tally()
    others = [fail({"name": name}) for name in "fghi"]
    assert retries.discard_all(ledgered, Sought(type=NAMED)) == (4, True)
    assert retries.discard_all(ledgered, Sought(type=NAMED)) == (1, False)
    assert dead(ledgered) == []
    read = runs.get(ledgered.db, others[0].run)
    assert read is not None and read.state == "failed" and read.settled_at is not None
