"""Schedules as operators see them: added, changed, paused, fired by hand, and what they did."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from jobserver import JobServer
from jobserver.broker.entries import DUE, WAKE, state_key
from jobserver.broker.entry import Entry
from jobserver.errors import PayloadInvalid, ScheduleNotFound, WrongState
from jobserver.listener import JobEvent, Listener, Listeners
from jobserver.scheduler import Scheduler
from jobserver.schedules import Schedules
from tests.hands import Hand
from tests.ticking import CLOCK, beat, create_app


@pytest.fixture
def server(
    redis: Redis, valkey: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[JobServer]:
    monkeypatch.setenv("REDIS_URL", valkey)
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{tmp_path / 'host.db'}")
    app = create_app()
    with app.app_context():
        server: JobServer = app.extensions["jobserver"]
        yield server
        server.broker.connection.close()
        server.db.engine.dispose()  # type: ignore[attr-defined]


@pytest.fixture
def schedules(server: JobServer) -> Schedules:
    return server.schedules


@pytest.fixture
def scheduler(server: JobServer) -> Scheduler:
    return Scheduler(server)


@pytest.fixture
def hand(server: JobServer) -> Hand:
    """A worker whose steps the test takes."""
    return Hand(server.broker, [CLOCK])


def entry(**changed: Any) -> Entry:
    """Return an entry of every hour."""
    fields = {"id": "hourly", "type": beat.name, "payload": {"hand": "a"}, "seconds": 3600}
    return Entry(**{**fields, **changed})


def miss(redis: Redis, schedules: Schedules, *, ticks: int, name: str = "hourly") -> list[int]:
    """Let an entry stand so that its last `ticks` ticks are due; return them in Unix seconds."""
    found = schedules.get(name).entry
    step = round(found.seconds or 1) * 1000
    last = schedules.entries.now() // step * step
    missed = [last - step * number for number in reversed(range(ticks))]
    redis.hset(state_key(name), mapping={"tick": missed[0], "due": missed[0]})
    redis.zadd(DUE, {name: missed[0]})
    return [tick // 1000 for tick in missed]


def history(schedules: Schedules, name: str = "hourly") -> list[tuple[str, int, str | None]]:
    """Return what became of a schedule's ticks, the oldest first."""
    return [(tick.word, tick.number, tick.job) for tick in reversed(schedules.runs(name))]


def test_a_schedule_is_added_changed_and_removed(schedules: Schedules) -> None:
    made, is_new = schedules.put(entry(overlap="allow"))
    assert is_new
    assert (made.state, made.entry.origin) == ("active", "api")
    assert made.next_at is not None
    assert made.next_at.timestamp() % 3600 == 0
    changed, is_new = schedules.put(entry(seconds=60))
    assert not is_new
    assert changed.next_at is not None
    assert changed.next_at - datetime.now(UTC) < timedelta(seconds=65)
    assert [one.entry.id for one in schedules.all()] == ["hourly"]
    schedules.delete("hourly")
    assert schedules.all() == []
    for verb in (schedules.get, schedules.delete, schedules.trigger, schedules.pause):
        with pytest.raises(ScheduleNotFound, match="'hourly'"):
            verb("hourly")


def test_what_is_declared_in_code_is_changed_there(
    schedules: Schedules, scheduler: Scheduler
) -> None:
    schedules.put(entry())
    scheduler.entries.declare(scheduler.declared(), prune=True)
    assert [one.entry.id for one in schedules.all()] == ["hourly", "minute", "second"]
    for change in (lambda: schedules.delete("minute"), lambda: schedules.put(entry(id="minute"))):
        with pytest.raises(WrongState, match="declared in code"):
            change()


@pytest.mark.parametrize(
    ("changed", "pointer"),
    [
        ({"type": "ticking.unknown"}, "#/type"),
        ({"payload": {"hand": 5}}, "#/payload/hand"),
        ({"seconds": None, "cron": "61 * * * *"}, "#/cron"),
        ({"seconds": None, "cron": "0 0 30 2 *"}, "#/cron"),
        ({"cron": "@hourly"}, "#/cron"),
        ({"seconds": 0.5}, "#/seconds"),
        ({"timezone": "Europe/Nowhere"}, "#/timezone"),
        ({"timezone": "Europe"}, "#/timezone"),
        ({"jitter": 3600}, "#/jitter"),
        ({"count": 0}, "#/count"),
        ({"limit": 1001}, "#/limit"),
        ({"grace": float("nan")}, "#/grace"),
        ({"misfire": "never"}, "#/misfire"),
        ({"overlap": "never"}, "#/overlap"),
        ({"priority": "urgent"}, "#/priority"),
        ({"id": "a b"}, "#/id"),
        ({"start": datetime(2030, 1, 1)}, "#/start"),  # no offset
        (
            {"start": datetime(2030, 1, 1, tzinfo=UTC), "end": datetime(2030, 1, 1, tzinfo=UTC)},
            "#/end",
        ),
    ],
)
def test_a_mistake_is_named_by_its_field(
    schedules: Schedules, changed: dict[str, Any], pointer: str
) -> None:
    with pytest.raises(PayloadInvalid) as refused:
        schedules.put(entry(**changed))
    assert [error["pointer"] for error in refused.value.errors] == [pointer]
    assert schedules.all() == []


def test_preview_tells_the_next_times_in_their_zone(schedules: Schedules) -> None:
    times = schedules.preview("30 9 * * *", timezone="Asia/Kolkata", count=3)
    assert [(time.hour, time.minute, time.utcoffset()) for time in times] == [
        (9, 30, timedelta(hours=5.5))
    ] * 3
    assert times[0] > datetime.now(UTC)
    assert times[1] - times[0] == timedelta(days=1)
    with pytest.raises(PayloadInvalid, match="#/cron"):
        schedules.preview("0 0 L * *")
    with pytest.raises(PayloadInvalid, match="#/count"):
        schedules.preview("@daily", count=101)


@pytest.mark.parametrize(
    ("options", "made", "history_"),
    [
        ({"misfire": "once"}, [-1], [("missed", 4), ("made", 1)]),
        ({"misfire": "all", "overlap": "allow"}, [0, 1, 2, 3, 4], [("made", 1)] * 5),
        (
            {"misfire": "all", "limit": 2, "overlap": "allow"},
            [3, 4],
            [("missed", 3), ("made", 1), ("made", 1)],
        ),
        ({"misfire": "skip", "grace": 3600}, [-1], [("missed", 4), ("made", 1)]),
        ({"misfire": "skip", "grace": 1}, [], [("missed", 5)]),
        ({"misfire": "all", "count": 3, "overlap": "allow"}, [0, 1, 2], [("made", 1)] * 3),
    ],
    ids=["once", "all", "all up to two", "skip in time", "skip", "all, three of them"],
)
def test_missed_ticks_are_made_up_for_by_policy(
    schedules: Schedules,
    scheduler: Scheduler,
    redis: Redis,
    options: dict[str, Any],
    made: list[int],
    history_: list[tuple[str, int]],
) -> None:
    schedules.put(entry(**options))
    missed = miss(redis, schedules, ticks=5)
    jobs = [f"hourly-{missed[number]}" for number in made]
    assert scheduler.enqueue_jobs() == jobs
    assert scheduler.enqueue_jobs() == []
    assert [job.decode() for job in redis.lrange("rq:queue:clock", 0, -1)] == jobs
    assert [(word, number) for word, number, _ in history(schedules)] == history_
    stands = schedules.get("hourly")
    assert (stands.made, stands.missed) == (
        len(jobs),
        5 - len(jobs) if "count" not in options else 0,
    )
    assert stands.state == ("ended" if "count" in options else "active")


def test_more_missed_ticks_than_one_look_counts_are_all_counted(
    schedules: Schedules, scheduler: Scheduler, redis: Redis
) -> None:
    schedules.put(entry(seconds=1, misfire="all", limit=3, overlap="allow"))
    missed = miss(redis, schedules, ticks=25_000)
    made: list[str] = []
    while not made:
        made = scheduler.enqueue_jobs()
    # Seconds may have passed since, and made up for are the last three.
    ticks = [int(job.removeprefix("hourly-")) for job in made]
    assert ticks == list(range(ticks[0], ticks[0] + 3))
    assert schedules.get("hourly").missed == ticks[0] - missed[0] >= 24_997


def test_a_step_that_another_scheduler_took_is_not_taken_again(
    schedules: Schedules, redis: Redis
) -> None:
    schedules.put(entry(misfire="all", overlap="allow"))
    miss(redis, schedules, ticks=3)
    due = schedules.entries.due()
    ((_, tick, found),) = due.entries
    assert isinstance(found, Entry)
    step, following, _ = (schedules.firing(found, one) for one in found.steps(tick, now=due.now))
    assert following.request
    words = [schedules.fire([one])[0].word for one in (following, step, step, following)]
    assert words == ["passed", "made", "passed", "made"]
    assert schedules.get("hourly").made == 2


def test_a_change_that_another_overtook_is_not_made(schedules: Schedules) -> None:
    schedules.put(entry())
    seen = schedules.entries.text("hourly")
    schedules.put(entry(seconds=60))
    assert not schedules.entries.put(entry(seconds=30), seen=seen)
    assert not schedules.entries.put(entry(seconds=30), seen=None)
    assert schedules.get("hourly").entry.seconds == 60


def test_an_active_job_holds_back_the_next_tick_by_policy(
    schedules: Schedules, scheduler: Scheduler, redis: Redis, hand: Hand
) -> None:
    schedules.put(entry(overlap="skip"))
    schedules.trigger("hourly")
    running = hand.take()
    (tick,) = miss(redis, schedules, ticks=1)
    assert scheduler.enqueue_jobs() == []
    assert schedules.get("hourly").skipped == 1
    assert history(schedules)[-1] == ("skipped", 1, running.id)
    hand.end(running)
    miss(redis, schedules, ticks=1)
    assert scheduler.enqueue_jobs() == [f"hourly-{tick}"]


def test_one_tick_follows_the_job_that_runs(
    schedules: Schedules, scheduler: Scheduler, server: JobServer, redis: Redis, hand: Hand
) -> None:
    schedules.put(entry(overlap="queue_one", seconds=60))
    first, second, third = miss(redis, schedules, ticks=3)

    def tick(moment: int) -> list[str]:
        redis.hset(state_key("hourly"), mapping={"tick": moment * 1000, "due": moment * 1000})
        redis.zadd(DUE, {"hourly": moment * 1000})
        return scheduler.enqueue_jobs()

    schedules.put(entry(overlap="queue_one", seconds=60, misfire="all"))
    running = schedules.trigger("hourly")
    assert schedules.runs("hourly")[0].word == "triggered"
    claim = hand.take()
    assert claim.id == running.id
    assert tick(first) == []
    follower = f"hourly-{first}"
    words = [word for word, _, _ in history(schedules)]
    assert words == ["triggered", "noted", "skipped", "skipped"]
    assert hand.claim() == []
    hand.end(claim)
    (followed,) = hand.claim()
    assert followed.id == follower
    assert server.fetch(claim.id).status == "completed"  # what ran before is kept
    hand.end(followed)
    assert hand.claim() == []
    assert schedules.get("hourly").last_job == follower
    assert {second, third} == {tick.at.timestamp() for tick in schedules.runs("hourly")[:2]}


def test_a_retry_brings_no_second_follower(
    schedules: Schedules, server: JobServer, hand: Hand
) -> None:
    schedules.put(entry(overlap="queue_one"))
    failing = schedules.trigger("hourly")
    claim = hand.take()
    follower = schedules.trigger("hourly")
    hand.end(claim, "failed")
    hand.end(hand.take())
    server.broker.clean(CLOCK, older_than=-1, registries=["finished"])
    server.retry(failing.id)
    hand.end(hand.take())
    assert hand.claim() == []
    assert server.broker.fetch_many([follower.id]) == [None]


def test_a_tick_cancels_the_job_before_it(
    schedules: Schedules, server: JobServer, hand: Hand
) -> None:
    told: list[JobEvent] = []
    listener = Listener(function=told.append, names=("canceled",))
    server.listeners = Listeners([listener], context=server.app.app_context)
    schedules.put(entry(overlap="cancel_previous"))
    waiting = schedules.trigger("hourly")
    running = schedules.trigger("hourly")
    assert server.fetch(waiting.id).status == "canceled"
    claim = hand.take()
    assert claim.id == running.id
    last = schedules.trigger("hourly")
    assert hand.end(claim) == "canceled"
    server.listeners.close(within=5)
    assert [event.job_id for event in told] == [waiting.id]
    assert server.fetch(last.id).status == "waiting"


def test_a_trigger_is_a_tick_by_hand(schedules: Schedules, server: JobServer) -> None:
    schedules.put(entry(paused=True, priority="high"))
    before = schedules.get("hourly")
    job = schedules.trigger("hourly")
    assert server.fetch(job.id).priority == "high"
    with pytest.raises(WrongState, match=job.id):
        schedules.trigger("hourly")
    after = schedules.get("hourly")
    assert (after.state, after.next_at, after.made) == ("paused", before.next_at, 0)


def test_a_paused_schedule_makes_up_for_what_it_missed_when_it_goes_on(
    schedules: Schedules, scheduler: Scheduler, redis: Redis
) -> None:
    schedules.put(entry())
    missed = miss(redis, schedules, ticks=3)
    assert schedules.pause("hourly").state == "paused"
    assert schedules.pause("hourly").state == "paused"
    assert scheduler.enqueue_jobs() == []
    redis.delete(WAKE)
    assert schedules.resume("hourly").state == "active"
    assert redis.llen(WAKE) == 1  # a scheduler that waits for its next tick looks anew
    assert scheduler.enqueue_jobs() == [f"hourly-{missed[-1]}"]


def test_a_deploy_leaves_an_operators_pause_and_other_schedules_alone(
    schedules: Schedules, scheduler: Scheduler, server: JobServer
) -> None:
    scheduler.entries.declare(scheduler.declared(), prune=True)
    schedules.put(entry())
    schedules.pause("minute")
    changed = [replace(one, seconds=30) for one in scheduler.declared() if one.id == "minute"]
    Scheduler(server).entries.declare(changed, prune=True)
    stands = {one.entry.id: (one.state, one.entry.seconds) for one in schedules.all()}
    assert stands == {"hourly": ("active", 3600), "minute": ("paused", 30)}


def test_a_tick_that_is_due_already_survives_a_change(
    schedules: Schedules, scheduler: Scheduler, redis: Redis
) -> None:
    schedules.put(entry())
    (missed,) = miss(redis, schedules, ticks=1)
    changed, _ = schedules.put(entry(seconds=86_400))
    assert changed.next_at is not None
    assert changed.next_at.timestamp() == missed
    assert scheduler.enqueue_jobs() == [f"hourly-{missed}"]


def test_a_server_that_lost_its_data_gets_what_is_declared_back(
    schedules: Schedules, server: JobServer, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobserver.scheduler.scheduler.MINUTE", 0)
    scheduler = Scheduler(server)
    scheduler.run(burst=True)
    redis.hdel("jobserver:entries", "minute")
    scheduler.run(burst=True)
    assert [one.entry.id for one in schedules.all()] == ["second"]  # another release removed one
    redis.delete("jobserver:entries", DUE)
    scheduler.run(burst=True)
    assert [one.entry.id for one in schedules.all()] == ["minute", "second"]


def test_a_schedule_ends_with_its_last_tick_and_is_kept(
    schedules: Schedules, scheduler: Scheduler, redis: Redis
) -> None:
    end = datetime.now(UTC) + timedelta(seconds=1)
    schedules.put(entry(end=end, start=end - timedelta(days=1)))
    redis.hset(state_key("hourly"), mapping={"tick": 1000, "due": 1000})
    redis.zadd(DUE, {"hourly": 1000})
    assert len(scheduler.enqueue_jobs()) == 1
    stands = schedules.get("hourly")
    assert (stands.state, stands.next_at) == ("ended", None)
    assert redis.zcard(DUE) == 0
    schedules.put(entry(seconds=60))
    assert schedules.get("hourly").state == "active"


def test_a_bad_entry_tells_why_it_is_put_off(
    schedules: Schedules, scheduler: Scheduler, redis: Redis
) -> None:
    bad = entry(type="ticking.unknown", origin="registry")
    scheduler.entries.declare([bad], prune=False)
    redis.hset("jobserver:entries", "newer", '{"id": "newer", "moon": "full"}')
    for name in ("hourly", "newer"):
        redis.zadd(DUE, {name: 1000})
    miss(redis, schedules, ticks=1)
    assert scheduler.enqueue_jobs() == []
    stands = {one.entry.id: one for one in schedules.all()}
    assert stands["hourly"].state == stands["newer"].state == "parked"
    assert "ticking.unknown" in stands["hourly"].reason
    assert "moon" in stands["newer"].reason


def test_a_change_wakes_one_scheduler_that_waits(schedules: Schedules, redis: Redis) -> None:
    waiting = [threading.Thread(target=schedules.entries.wait, args=(2,)) for _ in range(2)]
    for thread in waiting:
        thread.start()
    schedules.put(entry())
    schedules.put(entry(seconds=60))
    for thread in waiting:
        thread.join()
    assert redis.llen(WAKE) == 0  # each took one
