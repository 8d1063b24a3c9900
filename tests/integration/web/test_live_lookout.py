"""The lookout: no change is missed, one connection follows, and waiters never hang."""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from redis import Redis

from jobserver import Job, JobServer, errors
from jobserver.broker import Event, keys
from jobserver.live import Lookout, News, Watch
from tests.acceptance.conftest import wait_until
from tests.hands import Hand, request_of
from tests.integration.web.shop import MAIL, send_letter

MakeLookout = Callable[..., Lookout]


@pytest.fixture
def make_lookout(server: JobServer) -> Iterator[MakeLookout]:
    """Returns lookouts, closed with the test."""
    made: list[Lookout] = []

    def make(*, most: int = 1000) -> Lookout:
        made.append(Lookout(server.broker, most=most))
        return made[-1]

    yield make
    for lookout in made:
        lookout.close()


@pytest.fixture
def lookout(make_lookout: MakeLookout) -> Lookout:
    return make_lookout()


@pytest.fixture
def hand(server: JobServer) -> Hand:
    return Hand(server.broker, [MAIL])


def watched(lookout: Lookout, job: Job) -> Watch:
    watch = lookout.watch(job.id)
    assert watch is not None
    return watch


def news_of(watch: Watch, *, until: Callable[[News], object] = bool, seconds: float = 10) -> News:
    """Return the first news that are as wanted."""
    deadline = time.monotonic() + seconds
    while True:
        news = watch.wait(deadline - time.monotonic())
        assert news is not None, "no such news in time"
        if until(news):
            return news


def has_status(status: str) -> Callable[[News], bool]:
    return lambda news: news.job is not None and news.job.status == status


def test_the_first_news_are_how_the_job_stands(lookout: Lookout, server: JobServer) -> None:
    job = send_letter.enqueue(to="ada")
    assert news_of(watched(lookout, job)) == News(job=server.fetch(job.id))


def test_a_job_that_is_not_there_is_news_of_none(lookout: Lookout) -> None:
    watch = lookout.watch("nobody")
    assert watch is not None
    assert news_of(watch) == News(job=None)


def test_each_change_is_told_with_what_happened(
    lookout: Lookout, server: JobServer, hand: Hand
) -> None:
    job = send_letter.enqueue(to="ada")
    watch = watched(lookout, job)
    news_of(watch)
    taken = hand.take()
    news = news_of(watch)
    assert (news.job, [event.name for event in news.events]) == (server.fetch(job.id), ["claimed"])
    server.broker.progress(job.id, taken.exec, percent=40, message="sealing")
    (event,) = news_of(watch).events
    assert (event.name, event.job) == ("progress", job.id)
    assert (event.fields["percent"], event.fields["message"]) == ("40", "sealing")
    assert abs(event.at - time.time()) < 60
    hand.end(taken)
    assert news_of(watch).job == server.fetch(job.id)


def test_others_events_are_no_news(lookout: Lookout) -> None:
    job = send_letter.enqueue(to="ada")
    watch, beside = watched(lookout, job), watched(lookout, send_letter.enqueue(to="grace"))
    news_of(watch)
    send_letter.enqueue(to="eve")
    lookout.leave(beside)
    assert watch.wait(0.3) is None


def test_news_that_nobody_looked_at_are_put_together(server: JobServer) -> None:
    job = server.fetch(send_letter.enqueue(to="ada").id)
    watch = Watch(job.id)
    events = [Event(name="progress", job=job.id, at=n, fields={}) for n in range(150)]
    for event in events:
        watch.tell(replace(job, progress=event.at / 2), (event,))
    assert watch.wait(0) == News(job=replace(job, progress=74.5), events=tuple(events[50:]))
    assert watch.wait(0) is None


def test_a_change_between_the_watch_and_its_first_news_is_never_missed(
    make_lookout: MakeLookout, hand: Hand
) -> None:
    for number in range(60):
        # A lookout of its own, so that the change races with the start of the subscriber too.
        lookout = make_lookout()
        job = send_letter.enqueue(to=f"n{number}")
        taken = hand.take()
        starter = threading.Barrier(2)

        def end(starter: threading.Barrier = starter, taken: object = taken) -> None:
            starter.wait()
            hand.end(taken)  # type: ignore[arg-type]

        thread = threading.Thread(target=end)
        thread.start()
        starter.wait()
        watch = watched(lookout, job)
        news_of(watch, until=has_status("completed"), seconds=5)
        thread.join()
        lookout.close()


def test_an_event_between_two_reads_of_the_stream_is_in_the_second(
    server: JobServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobserver.broker.tail.WAIT", 0.01)
    tail = server.broker.tail()
    assert tail.listen()
    assert not tail.listen()
    select.select([tail.source], [], [], 10)  # the first answer is there: nothing happened
    job = send_letter.enqueue(to="ada")
    assert tail.read({job.id.encode()}) == ([], False)
    select.select([tail.source], [], [], 10)
    (event,), is_more = tail.read({job.id.encode()})
    assert (event.name, event.job, is_more) == ("queued", job.id, False)
    tail.close()


def test_a_change_while_the_connection_was_lost_is_told(
    lookout: Lookout, redis: Redis, hand: Hand
) -> None:
    job = send_letter.enqueue(to="ada")
    watch = watched(lookout, job)
    news_of(watch)
    for _ in range(5):
        redis.client_kill_filter(_type="normal", skipme=True)
        hand.end(hand.take(), "release")
        redis.client_kill_filter(_type="normal", skipme=True)
        news_of(watch, until=has_status("waiting"))
    redis.client_kill_filter(_type="normal", skipme=True)
    hand.end(hand.take())
    redis.client_kill_filter(_type="normal", skipme=True)
    news_of(watch, until=has_status("completed"))


def test_a_stock_tools_change_without_an_event_is_told_too(
    lookout: Lookout, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobserver.live.lookout.REREAD", 0.2)
    monkeypatch.setattr("jobserver.broker.tail.WAIT", 0.1)
    job = send_letter.enqueue(to="ada")
    watch = watched(lookout, job)
    news_of(watch)
    redis.hset(keys.job(job.id), "status", "failed")
    news_of(watch, until=has_status("failed"))


def test_only_so_many_wait(make_lookout: MakeLookout) -> None:
    lookout = make_lookout(most=2)
    job = send_letter.enqueue(to="ada")
    first, _ = watched(lookout, job), watched(lookout, job)
    assert lookout.watch(job.id) is None
    lookout.leave(first)
    lookout.leave(first)
    with lookout.watching(job.id) as watch:
        assert watch is not None
        with lookout.watching(job.id) as another:
            assert another is None
    assert lookout.watch(job.id) is not None


def test_a_thousand_waiters_take_two_connections(
    lookout: Lookout, server: JobServer, redis: Redis, hand: Hand
) -> None:
    jobs = server.enqueue_many(send_letter, [{"to": f"n{n}"} for n in range(1000)])
    before = {client["id"] for client in redis.client_list()}
    watches = [watched(lookout, job) for job in jobs]
    for watch in watches:
        news_of(watch, until=has_status("waiting"))
    taken = hand.claim(processes=1000)
    hand.end_many([(claim, "completed") for claim in taken])
    for watch in watches:
        news_of(watch, until=has_status("completed"))
    opened = [client["cmd"] for client in redis.client_list() if client["id"] not in before]
    assert len(opened) <= 2
    assert "xread" in opened


def test_without_redis_the_first_news_are_an_error_and_later_ones_come(
    lookout: Lookout, redis: Redis, hand: Hand, caplog: pytest.LogCaptureFixture
) -> None:
    job = send_letter.enqueue(to="ada")
    watch = watched(lookout, job)
    news_of(watch)
    redis.client_pause(1500)
    with pytest.raises(errors.RedisUnavailable):
        watched(lookout, job).wait(10)
    redis.ping()  # as soon as it answers again
    hand.end(hand.take())
    news_of(watch, until=has_status("completed"))
    lookout.close()  # its thread has said all it has to say then
    lost, found = (record for record in caplog.records if "heard" in record.message)
    assert (lost.levelname, found.levelname) == ("WARNING", "WARNING")
    assert "events are not heard" in lost.message
    assert found.message == "events are heard again"


def test_closing_lets_all_go_and_admits_no_more(lookout: Lookout) -> None:
    watch = watched(lookout, send_letter.enqueue(to="ada"))
    news_of(watch)
    threading.Timer(0.1, lookout.close).start()
    began = time.monotonic()
    assert watch.wait(30) is None
    assert watch.is_over
    assert time.monotonic() < began + 10
    assert lookout.watch("other") is None
    lookout.leave(watch)


def test_an_unreadable_job_lets_the_waiters_go_instead_of_all_wait_for_ever(
    lookout: Lookout, redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    watch = watched(lookout, send_letter.enqueue(to="ada"))
    news_of(watch)
    redis.set(keys.job("odd"), "a string")
    assert lookout.watch("odd") is not None
    assert watch.wait(10) is None
    assert watch.is_over
    assert "lets its waiters go" in caplog.text
    news_of(watched(lookout, send_letter.enqueue(to="ada")))


def test_without_waiters_nothing_follows_the_stream(
    lookout: Lookout, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobserver.live.lookout.LINGER", 0.0)
    monkeypatch.setattr("jobserver.broker.tail.WAIT", 0.1)
    job = send_letter.enqueue(to="ada")

    def followers() -> int:
        return sum(client["cmd"] == "xread" for client in redis.client_list())

    for _ in range(2):
        watch = watched(lookout, job)
        news_of(watch)
        wait_until(lambda: followers() == 1, what="it follows")
        lookout.leave(watch)
        wait_until(lambda: followers() == 0, what="it follows no more")


def test_a_forked_process_has_a_lookout_of_its_own(lookout: Lookout, server: JobServer) -> None:
    job = send_letter.enqueue(to="ada")
    news_of(watched(lookout, job))
    child = os.fork()
    if child == 0:
        watch = lookout.watch(job.id)
        news = watch.wait(10) if watch else None
        os._exit(0 if news and news.job and news.job.status == "waiting" else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_an_event_of_before_the_stream_existed_is_not_needed(
    lookout: Lookout, redis: Redis, hand: Hand, server: JobServer
) -> None:
    server.broker.enqueue([request_of("letter-eve", queue="mail", type_name="shop.send_letter")])
    redis.delete(keys.EVENTS)
    watch = lookout.watch("letter-eve")
    assert watch is not None
    news_of(watch)
    hand.end(hand.take())
    news_of(watch, until=has_status("completed"))
