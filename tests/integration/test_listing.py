"""Lists of jobs: every job on one page exactly, in order, whatever happens between two pages."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis import Redis

from jobserver import JobServer, Queue, Retention, errors
from jobserver.broker import Broker, keys
from jobserver.broker.job import Status
from jobserver.broker.listing import Listing, Place, Wanted
from jobserver.testing import work
from tests.hands import Hand, request_of, story

Q = Queue("q", executor="thread")
R = Queue("r", executor="thread", retention=Retention(completed_age=50, failed_age=60))
BOTH = (Q, R)


@pytest.fixture
def listing(broker: Broker) -> Listing:
    return Listing(broker)


def pages(
    listing: Listing, state: Status, *, count: int, queues: Sequence[Queue] = BOTH
) -> Iterator[list[Place]]:
    after = None
    while True:
        page = listing.page(queues, state, after=after, count=count)
        yield page
        if len(page) < count:
            return
        after = page[-1]


def walk(
    listing: Listing, state: Status, *, count: int, queues: Sequence[Queue] = BOTH
) -> list[str]:
    return [
        place.id for page in pages(listing, state, count=count, queues=queues) for place in page
    ]


# Few scores, so that many members have the same one.
entries = st.dictionaries(
    st.text("ab-_Z0", min_size=1, max_size=4),
    st.tuples(st.sampled_from(["q:high", "q", "q:low", "r"]), st.integers(0, 4)),
    max_size=40,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(entries, st.integers(1, 25), st.sampled_from(["delayed", "canceled"]))
def test_registries_are_walked_as_one_in_order(
    redis: Redis, listing: Listing, members: dict[str, tuple[str, int]], count: int, state: Status
) -> None:
    redis.flushall()
    name = {"delayed": "scheduled", "canceled": "canceled"}[state]
    for member, (origin, score) in members.items():
        redis.zadd(keys.registry(name, origin), {member: score})
    in_order = sorted(
        members, key=lambda one: (members[one][1], one.encode()), reverse=state != "delayed"
    )
    assert walk(listing, state, count=count) == in_order


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(entries, st.integers(1, 5), st.data())
def test_a_page_goes_on_behind_a_job_that_is_gone(
    redis: Redis,
    listing: Listing,
    members: dict[str, tuple[str, int]],
    count: int,
    data: st.DataObject,
) -> None:
    redis.flushall()
    for member, (origin, score) in members.items():
        redis.zadd(keys.registry("canceled", origin), {member: score})
    seen: list[str] = []
    gone: set[str] = set()
    for page in pages(listing, "canceled", count=count):
        seen += [place.id for place in page]
        for place in page:
            if data.draw(st.booleans()):
                redis.zrem(keys.registry("canceled", members[place.id][0]), place.id)
                gone.add(place.id)
    assert sorted(seen) == sorted(members)


def test_ended_jobs_of_queues_with_other_retentions_come_by_their_end(
    redis: Redis, listing: Listing
) -> None:
    for queue, ended in ((Q, 1_700_000_001.25), (R, 1_700_000_002.5), (Q, 1_700_000_003.125)):
        expiry = ended + queue.retention.failed_age
        redis.zadd(keys.registry("failed", queue.name), {f"at{ended:.0f}": expiry})
    assert walk(listing, "failed", count=1) == ["at1700000003", "at1700000002", "at1700000001"]


@pytest.mark.parametrize("count", [1, 2, 3, 50])
def test_waiting_jobs_come_in_the_order_in_which_they_start(
    broker: Broker, listing: Listing, count: int
) -> None:
    for job_id, origin in (("d", "q:low"), ("b", "q"), ("a", "q:high"), ("c", "q"), ("e", "r")):
        broker.enqueue([request_of(job_id, queue=origin)])
    assert walk(listing, "waiting", count=count) == ["a", "b", "c", "d", "e"]


@pytest.mark.parametrize("at_a_time", [True, False])
def test_waiting_jobs_that_start_or_go_between_pages_hide_no_other(
    broker: Broker, listing: Listing, at_a_time: bool
) -> None:
    ids = [f"j{number:02}" for number in range(20)]
    if at_a_time:
        broker.enqueue([request_of(job_id) for job_id in ids])
    else:
        for job_id in ids:
            broker.enqueue([request_of(job_id)])
    hand = Hand(broker, [Q])
    first = listing.page([Q], "waiting", after=None, count=5)
    assert [place.id for place in first] == ids[:5]
    hand.claim(threads=3)
    broker.cancel("j06", retention=Q.retention)
    second = listing.page([Q], "waiting", after=first[-1], count=5)
    assert [place.id for place in second] == ["j05", "j07", "j08", "j09", "j10"]
    broker.cancel("j10", retention=Q.retention)  # the very job that the next page follows
    third = listing.page([Q], "waiting", after=second[-1], count=5)
    wanted = ["j11", "j12", "j13", "j14", "j15"]
    found = [place.id for place in third]
    # Of jobs that came at one time those before it may be shown again, but none is left out.
    assert found == (["j03", "j04", "j05", "j07", "j08"] if at_a_time else wanted)


def test_waiting_jobs_put_in_front_again_do_not_mislead_the_pages(
    broker: Broker, listing: Listing, redis: Redis
) -> None:
    for number in range(20):
        broker.enqueue([request_of(f"j{number:02}")])
    hand = Hand(broker, [Q])
    hand.end_many([(claim, "release") for claim in hand.claim(threads=10)])
    in_order = [job_id.decode() for job_id in redis.lrange(keys.waiting("q"), 0, -1)]
    assert len(in_order) == 20
    assert walk(listing, "waiting", count=3) == in_order


def test_running_jobs_are_listed_by_id(broker: Broker, listing: Listing) -> None:
    broker.enqueue([request_of(f"j{number}") for number in range(5)])
    Hand(broker, [Q]).claim(threads=5)
    seen: list[str] = []
    for page in pages(listing, "active", count=2):
        seen += [job.id for job in listing.jobs(page) if job]
    assert sorted(seen) == ["j0", "j1", "j2", "j3", "j4"]


def test_a_page_costs_one_script_and_jobs_one_round_trip(
    broker: Broker, listing: Listing, redis: Redis
) -> None:
    broker.enqueue([request_of(f"j{number}") for number in range(150)])
    listing.page([Q], "waiting", after=None, count=1)  # loads the script
    redis.config_resetstat()
    places = listing.page([Q], "waiting", after=None, count=100)
    assert len(listing.jobs(places)) == 100
    calls = redis.info("commandstats")
    assert calls["cmdstat_evalsha"]["calls"] == 1
    assert calls["cmdstat_hmget"]["calls"] == 100


def ids(
    server: JobServer, wanted: Wanted, *, limit: int = 200, queue: str | None = None
) -> set[str]:
    found: set[str] = set()
    after = None
    while True:
        jobs, after = server.search(wanted, queue=queue, after=after, limit=limit)
        assert len(jobs) <= limit
        found |= {job.id for job in jobs}
        if after is None:
            return found


@pytest.fixture
def busy(server: JobServer) -> JobServer:
    """A server with a job in each state but active."""
    for name in ("one", "two"):
        server.enqueue("engine_jobs.named", {"name": name}, owner="7" if name == "two" else None)
    server.enqueue("engine_jobs.fail", key="failing", attempts=1)
    work()
    server.enqueue("engine_jobs.named", {"name": "later"}, delay=60)
    server.enqueue("engine_jobs.named", {"name": "never"})
    server.cancel("named-never")
    server.enqueue("engine_jobs.add", {"a": 1}, key="sum/1")
    return server


@pytest.mark.parametrize("limit", [1, 2, 200])
def test_a_search_finds_what_it_is_asked_for(busy: JobServer, limit: int) -> None:
    everything = ids(busy, Wanted(), limit=limit)
    assert len(everything) == 6
    assert ids(busy, Wanted(states=("completed",)), limit=limit) == {"named-one", "named-two"}
    assert ids(busy, Wanted(states=("delayed", "canceled")), limit=limit) == {
        "named-later",
        "named-never",
    }
    assert ids(busy, Wanted(type="engine_jobs.fail"), limit=limit) == {"failing"}
    assert ids(busy, Wanted(key_prefix="named-n"), limit=limit) == {"named-never"}
    assert len(ids(busy, Wanted(key_prefix="sum/"), limit=limit)) == 1
    assert ids(busy, Wanted(owner="7"), limit=limit) == {"named-two"}
    assert ids(busy, Wanted(), limit=limit, queue="PROC") == set()
    now = datetime.now(UTC)
    assert ids(busy, Wanted(created_before=now - timedelta(minutes=1)), limit=limit) == set()
    assert ids(busy, Wanted(created_from=now - timedelta(minutes=1)), limit=limit) == everything


def test_a_search_for_what_is_rare_stops_and_can_be_gone_on_with(server: JobServer) -> None:
    server.enqueue_many("engine_jobs.add", [{"a": n} for n in range(2500)])
    server.enqueue("engine_jobs.add", {"a": 1}, key="the-needle")
    jobs, after = server.search(Wanted(key_prefix="the-needle"))
    assert jobs == []
    assert after is not None
    assert ids(server, Wanted(key_prefix="the-needle")) == {"the-needle"}


def test_attempts_tell_of_each_run(server: JobServer) -> None:
    job = server.enqueue("engine_jobs.fail", attempts=3)
    work()
    found = server.attempts(job.id)
    assert [(one.number, one.completed) for one in found] == [(1, False), (2, False), (3, False)]
    assert "ValueError: always" in (found[0].error or "")
    assert found[0].started is not None
    assert found[0].started <= found[0].ended
    done = server.enqueue("engine_jobs.add", {"a": 1})
    assert server.attempts(done.id) == []
    work()
    (only,) = server.attempts(done.id)
    assert (only.number, only.completed, only.error) == (1, True, None)


def test_a_delayed_job_can_be_promoted(server: JobServer, redis: Redis) -> None:
    job = server.enqueue("engine_jobs.add", {"a": 1}, delay=60)
    promoted = server.promote(job.id)
    assert (promoted.status, promoted.due_at) == ("waiting", None)
    assert story(redis, job.id) == ["delayed", "queued"]
    with pytest.raises(errors.WrongState, match="is waiting; only delayed ones"):
        server.promote(job.id)
    assert [job.status for job in work()] == ["completed"]
    with pytest.raises(errors.WrongState):
        server.promote(job.id)
    with pytest.raises(errors.JobNotFound):
        server.promote("nobody")


def test_a_retry_that_waits_can_be_promoted(server: JobServer) -> None:
    job = server.enqueue("engine_jobs.fail_slowly")
    work()
    assert server.fetch(job.id).status == "delayed"
    server.promote(job.id)
    work()
    assert server.fetch(job.id).attempt == 2
