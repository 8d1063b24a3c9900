"""Transactional enqueue: what was committed is made once, what was rolled back never."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, create_engine, event, func, insert, select, text
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from jobserver.broker import Answer, Broker, EnqueueRequest
from jobserver.broker.job import envelope
from jobserver.errors import JobServerError, RedisUnavailable
from jobserver.ids import new_id
from jobserver.ledger import Outbox, migrate
from jobserver.ledger.models import outbox as rows
from tests.databases import notes, settle


def request(job_id: str | None = None, *, data: str = "{}", due: str = "") -> EnqueueRequest:
    """Return a request for a job of the type `notes.read`."""
    return EnqueueRequest(
        id=job_id or new_id(),
        call=new_id(),
        run=new_id(),
        type="notes.read",
        origin="notes",
        data=envelope("jobserver.runner.run", "notes.read", data.encode()),
        timeout=60,
        attempts=3,
        due=due,
    )


def waiting(broker: Broker) -> list[str]:
    """Return the ids in the queue, first to run first."""
    return [job_id.decode() for job_id in broker.connection.lrange("rq:queue:notes", 0, -1)]


def stored(engine: Engine) -> int:
    """Return how many rows the outbox has once all pushes are done."""
    settle()
    with engine.connect() as connection:
        return connection.scalar(select(func.count()).select_from(rows)) or 0


@pytest.fixture
def outbox(broker: Broker) -> Outbox:
    return Outbox(broker)


@pytest.fixture
def session(engine: Engine) -> Iterator[Session]:
    with Session(engine) as session:
        yield session


def test_a_commit_makes_the_job_and_clears_the_outbox(
    engine: Engine, session: Session, outbox: Outbox, broker: Broker
) -> None:
    session.execute(insert(notes).values(text="a"))
    outbox.store(session, [request("one")])
    assert waiting(broker) == []
    session.commit()
    assert waiting(broker) == ["one"]
    assert stored(engine) == 0


def test_a_rollback_makes_nothing(
    engine: Engine, session: Session, outbox: Outbox, broker: Broker
) -> None:
    outbox.store(session, [request("one")])
    session.rollback()
    assert waiting(broker) == []
    assert stored(engine) == 0
    session.execute(insert(notes).values(text="a"))
    session.commit()
    assert waiting(broker) == []


def test_a_closed_session_makes_nothing(engine: Engine, outbox: Outbox, broker: Broker) -> None:
    with Session(engine) as session:
        outbox.store(session, [request("one")])
    assert waiting(broker) == []
    assert stored(engine) == 0


def test_a_failed_commit_makes_nothing(
    engine: Engine, session: Session, outbox: Outbox, broker: Broker
) -> None:
    outbox.store(session, [request("one")])

    @event.listens_for(session, "before_commit")
    def refuse(_: Session) -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        session.commit()
    session.rollback()
    assert waiting(broker) == []
    assert stored(engine) == 0


def test_each_transaction_of_a_session_pushes_its_own(
    session: Session, outbox: Outbox, broker: Broker
) -> None:
    outbox.store(session, [request("one")])
    session.commit()
    outbox.store(session, [request("lost")])
    session.rollback()
    outbox.store(session, [request("two")])
    outbox.store(session, [request("three"), request("four")])
    session.commit()
    assert waiting(broker) == ["one", "two", "three", "four"]


def test_a_rolled_back_savepoint_takes_its_jobs_along(
    engine: Engine, session: Session, outbox: Outbox, broker: Broker
) -> None:
    outbox.store(session, [request("before")])
    with session.begin_nested():
        outbox.store(session, [request("kept")])
    assert waiting(broker) == []  # a released savepoint is no commit
    with session.begin_nested() as outer:
        outbox.store(session, [request("lost")])
        with session.begin_nested():
            outbox.store(session, [request("lost too")])
        outer.rollback()
    outbox.store(session, [request("after")])
    session.commit()
    assert waiting(broker) == ["before", "kept", "after"]
    assert stored(engine) == 0


def test_a_savepoint_of_raw_sql_counts_too(
    session: Session, outbox: Outbox, broker: Broker
) -> None:
    outbox.store(session, [request("kept")])
    session.execute(text("SAVEPOINT mine"))
    outbox.store(session, [request("lost")])
    session.execute(text("ROLLBACK TO SAVEPOINT mine"))
    session.commit()
    assert waiting(broker) == ["kept"]


def test_nothing_is_pushed_while_a_joined_transaction_is_open(
    engine: Engine, outbox: Outbox, broker: Broker
) -> None:
    with engine.connect() as connection, connection.begin() as transaction:
        with Session(connection, join_transaction_mode="create_savepoint") as session:
            outbox.store(session, [request("lost")])
            session.commit()
        assert waiting(broker) == []
        transaction.rollback()
    assert stored(engine) == 0
    assert waiting(broker) == []


def test_a_joined_transaction_that_commits_later_is_left_to_the_relay(
    engine: Engine, outbox: Outbox, broker: Broker
) -> None:
    with engine.begin() as connection, Session(connection) as session:
        outbox.store(session, [request("one")])
        session.commit()
    assert outbox.relay(engine, settle=0) == 1
    assert waiting(broker) == ["one"]


def test_a_scoped_session_works_as_its_session(
    engine: Engine, outbox: Outbox, broker: Broker
) -> None:
    session = scoped_session(sessionmaker(engine))
    outbox.store(session, [request("one")])
    session.commit()
    session.remove()
    assert waiting(broker) == ["one"]


def test_two_databases_each_push_their_own(
    engine: Engine, outbox: Outbox, broker: Broker, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = create_engine(f"sqlite:///{tmp_path_factory.mktemp('other') / 'other.db'}")
    migrate(other)
    with Session(engine) as here, Session(other) as there:
        outbox.store(here, [request("lost")])
        outbox.store(there, [request("one")])
        there.commit()
        here.rollback()
    assert waiting(broker) == ["one"]
    assert stored(engine) == stored(other) == 0
    other.dispose()


def test_flask_sqlalchemy_keeps_the_outbox_in_its_default_database(
    database: str, engine: Engine, outbox: Outbox, broker: Broker
) -> None:
    db = SQLAlchemy()
    app = Flask("host")
    app.config["SQLALCHEMY_DATABASE_URI"] = database
    app.config["SQLALCHEMY_BINDS"] = {"other": "sqlite://"}
    db.init_app(app)
    with app.app_context():
        outbox.store(db.session, [request("one")])
        db.session.commit()
        outbox.store(db.session, [request("lost")])
        db.session.remove()
        settle()
        for used in db.engines.values():
            used.dispose()
    assert waiting(broker) == ["one"]
    assert stored(engine) == 0


def test_a_large_transaction_is_pushed_whole_and_in_order(
    engine: Engine, session: Session, outbox: Outbox, broker: Broker
) -> None:
    ids = [f"job-{number:04}" for number in range(1203)]
    outbox.store(session, [request(job_id) for job_id in ids])
    session.commit()
    assert waiting(broker) == ids
    assert stored(engine) == 0


def test_a_job_that_is_due_later_waits_for_its_time(
    session: Session, outbox: Outbox, broker: Broker
) -> None:
    outbox.store(session, [request("later", due="32503680000000")])
    session.commit()
    assert waiting(broker) == []
    assert broker.fetch("later").status == "delayed"


def test_a_missing_table_says_what_to_do(
    tmp_path_factory: pytest.TempPathFactory, outbox: Outbox
) -> None:
    engine = create_engine(f"sqlite:///{tmp_path_factory.mktemp('bare') / 'bare.db'}")
    with Session(engine) as session, pytest.raises(JobServerError, match="flask jobs migrate"):
        outbox.store(session, [request()])
    assert outbox.relay(engine) == 0
    engine.dispose()


class Failing(Broker):
    """A broker whose pushes fail while `error` is set."""

    error: Exception | None = RedisUnavailable()

    def enqueue(self, requests: list[EnqueueRequest], *, call_ttl: float = 0) -> list[Answer]:  # type: ignore[override]
        if self.error is not None:
            raise self.error
        return super().enqueue(requests, call_ttl=call_ttl)


def test_an_absent_redis_neither_fails_nor_loses_a_commit(
    engine: Engine, session: Session, broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    failing = Failing(broker.connection)
    outbox = Outbox(failing)
    for job_id in ("one", "two"):
        outbox.store(session, [request(job_id)])
        session.commit()
    assert stored(engine) == 2
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    with pytest.raises(RedisUnavailable):
        outbox.relay(engine, settle=0)
    failing.error = None
    assert outbox.relay(engine, settle=0) == 2
    assert waiting(broker) == ["one", "two"]
    assert stored(engine) == 0


def test_a_hanging_push_does_not_hold_up_the_commit(
    engine: Engine, session: Session, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobserver.ledger.outbox.PATIENCE", 0.05)
    go_on = threading.Event()

    def hang(requests: list[EnqueueRequest], *, call_ttl: float = 0) -> list[Answer]:
        go_on.wait(30)
        return Broker.enqueue(broker, requests, call_ttl=call_ttl)

    monkeypatch.setattr(broker, "enqueue", hang)
    Outbox(broker).store(session, [request("one")])
    session.commit()
    assert waiting(broker) == []
    go_on.set()
    assert stored(engine) == 0
    assert waiting(broker) == ["one"]


def test_a_pool_with_one_connection_is_enough(
    database: str, engine: Engine, outbox: Outbox, broker: Broker
) -> None:
    narrow = create_engine(database, pool_size=1, max_overflow=0, pool_timeout=0.2)
    with Session(narrow) as session:
        outbox.store(session, [request("one")])
        session.commit()
    settle()
    narrow.dispose()
    assert waiting(broker) == ["one"]
    assert stored(engine) == 0


def test_a_request_that_redis_refuses_holds_up_no_other(
    engine: Engine, session: Session, broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    outbox = Outbox(broker)
    bad = request("bad", due="not a time")
    with (
        engine.begin() as connection,
        Session(connection) as joined,
    ):  # so that only the relay pushes
        outbox.store(joined, [request("one"), bad, request("two")])
        joined.commit()
    with engine.begin() as connection:
        connection.execute(
            insert(rows).values(id="unreadable", created_at=func.now(), request="{nonsense")
        )
    for _ in range(3):
        outbox.relay(engine, settle=0)
    assert waiting(broker) == ["one", "two"]
    assert stored(engine) == 2
    refused = [record for record in caplog.records if record.levelname == "ERROR"]
    assert len(refused) == 2


def test_a_refused_row_is_tried_again_later(
    engine: Engine, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing = Failing(broker.connection)
    failing.error = ValueError("no permission to run scripts")
    outbox = Outbox(failing)
    with engine.begin() as connection, Session(connection) as session:
        outbox.store(session, [request("one")])
        session.commit()
    assert outbox.relay(engine, settle=0) == 0
    failing.error = None
    assert outbox.relay(engine, settle=0) == 0
    monkeypatch.setattr("jobserver.ledger.outbox.REST", 0)
    assert outbox.relay(engine, settle=0) == 1
    assert waiting(broker) == ["one"]


def test_relays_at_once_make_each_job_once(engine: Engine, outbox: Outbox, broker: Broker) -> None:
    ids = [f"job-{number:04}" for number in range(900)]
    with engine.begin() as connection, Session(connection) as session:
        outbox.store(session, [request(job_id) for job_id in ids])
        session.commit()
    errors: list[Exception] = []

    def relay() -> None:
        try:
            Outbox(broker).relay(engine, settle=0)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=relay) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert waiting(broker) == ids
    assert stored(engine) == 0


def test_a_row_pushed_again_after_its_job_ended_makes_no_second_run(
    engine: Engine, outbox: Outbox, broker: Broker
) -> None:
    with engine.begin() as connection, Session(connection) as session:
        outbox.store(session, [request("one")])
        session.commit()
    with engine.connect() as connection:
        row = connection.execute(select(rows)).one()
    outbox.relay(engine, settle=0)
    # As if that relay had been killed between its push and its delete.
    with engine.begin() as connection:
        connection.execute(insert(rows).values(row._asdict()))
    broker.connection.delete("rq:job:one", "rq:queue:notes")
    assert outbox.relay(engine, settle=0) == 1
    assert waiting(broker) == []
    assert stored(engine) == 0


def test_a_fresh_row_is_left_to_the_process_that_wrote_it(
    engine: Engine, outbox: Outbox, broker: Broker
) -> None:
    with engine.begin() as connection, Session(connection) as session:
        outbox.store(session, [request("one")])
        session.commit()
    assert outbox.relay(engine, settle=60) == 0
    assert outbox.relay(engine, settle=0) == 1


Step = st.one_of(
    st.just("enqueue"),
    st.just("savepoint"),
    st.just("release"),
    st.just("back"),
    st.just("commit"),
    st.just("rollback"),
)


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(steps=st.lists(Step, max_size=14))
def test_exactly_the_committed_requests_are_pushed_each_once(
    steps: list[str], engine: Engine, outbox: Outbox, broker: Broker
) -> None:
    broker.connection.flushall()
    committed: list[str] = []
    levels: list[list[str]] = [[]]  # what each open savepoint has stored, the transaction first
    with Session(engine) as session:
        savepoints = []
        for number, step in enumerate(steps):
            if step == "enqueue":
                outbox.store(session, [request(f"job-{number}")])
                levels[-1].append(f"job-{number}")
            elif step == "savepoint":
                savepoints.append(session.begin_nested())
                levels.append([])
            elif step == "release" and savepoints:
                savepoints.pop().commit()
                levels[-2:] = [levels[-2] + levels[-1]]
            elif step == "back" and savepoints:
                savepoints.pop().rollback()
                levels.pop()
            elif step in ("commit", "rollback"):
                session.commit() if step == "commit" else session.rollback()
                if step == "commit":
                    committed += [job_id for level in levels for job_id in level]
                savepoints, levels = [], [[]]
            assert waiting(broker) == committed
    assert waiting(broker) == committed
    assert stored(engine) == 0
