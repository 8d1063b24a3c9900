"""The verbs over schedules: recurring entries as operators and the HTTP API see them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from itertools import islice
from typing import TYPE_CHECKING

from jobserver.broker.entries import Entries, Fired, Firing
from jobserver.broker.entry import Entry, Origin, Step, zone
from jobserver.broker.job import Job, queue_of
from jobserver.broker.standing import Schedule, State, Tick
from jobserver.errors import (
    FieldError,
    PayloadInvalid,
    ScheduleNotFound,
    UnknownJobType,
    WrongState,
)
from jobserver.ids import new_id
from jobserver.policy import Retention
from jobserver.redaction import REDACTED

if TYPE_CHECKING:
    from jobserver.broker import EnqueueRequest
    from jobserver.server import Server

PREVIEWED = 100  # times at most
READ = 200  # schedules in one step of a search


class Schedules:
    """The verbs over one server's schedules. Raises RedisUnavailable."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self.entries = Entries(server.broker)

    def all(self) -> list[Schedule]:
        """Return all schedules by id."""
        return self.entries.schedules()

    def page(
        self,
        *,
        after: str = "",
        limit: int = 50,
        type: str | None = None,
        origin: Origin | None = None,
        state: State | None = None,
    ) -> tuple[list[Schedule], bool]:
        """Return schedules by id that fit, from behind `after` on, and whether there are more."""
        ids = [name for name in sorted(self.entries.ids()) if name > after]
        found: list[Schedule] = []
        step = max(limit + 1, READ)
        for start in range(0, len(ids), step):
            found += [
                one
                for one in self.entries.schedules(ids[start : start + step])
                if type in (None, one.entry.type)
                and origin in (None, one.entry.origin)
                and state in (None, one.state)
            ]
            if len(found) > limit:
                break
        return found[:limit], len(found) > limit

    def get(self, schedule_id: str) -> Schedule:
        """Return a schedule as it stands; raises ScheduleNotFound."""
        found = self.entries.schedules([schedule_id])
        if not found:
            raise _unknown(schedule_id)
        return found[0]

    def put(self, entry: Entry) -> tuple[Schedule, bool]:
        """Add a schedule, or replace the one with its id; return it, and whether it is new.

        A tick that is due already stays due, and one that is there stays paused or not. Raises
        PayloadInvalid by field, WrongState for one that is declared in code.
        """
        entry = replace(entry, origin="api")
        wrong = entry.problems()
        if wrong or (wrong := self._job_problems(entry)):
            raise PayloadInvalid(errors=wrong)
        while True:
            seen = self.entries.text(entry.id)
            if seen is not None:
                known = self.get(entry.id).entry
                self._check_not_declared(known, "change it there")
                entry = replace(entry, paused=known.paused)
            if self.entries.put(entry, seen=seen):
                return self.get(entry.id), seen is None

    def delete(self, schedule_id: str) -> None:
        """Remove a schedule; jobs that it made stay.

        Raises ScheduleNotFound, WrongState for one that is declared in code.
        """
        self._check_not_declared(self.get(schedule_id).entry, "pause it, or remove it there")
        self.entries.remove(schedule_id)

    def trigger(self, schedule_id: str, *, call: str | None = None) -> Job:
        """Make a schedule's job now, whatever its state; its next tick stays where it is.

        It is a tick by hand, with an id of its own: the overlap policy holds for it. `call` names
        this call: repeated, it gets the same job (`duplicate`). Raises ScheduleNotFound, WrongState
        where that policy is to skip and a job is active, and what `enqueue` raises for its type and
        payload.
        """
        entry = self.get(schedule_id).entry
        job_id = f"{entry.id}-{call or new_id()}"
        if call and (made := self._server.broker.fetch_many([job_id])[0]):
            return replace(made, duplicate=True)
        now = self.entries.now()
        request, retention = self._request(entry, now, job_id=job_id)
        firing = Firing(entry=entry, step=None, at=now, request=request, retention=retention)
        (fired,) = self.fire([firing])
        if fired.word == "passed":
            raise _unknown(schedule_id)
        if fired.word == "skipped":
            raise WrongState(
                f"Job {fired.job!r} of schedule {schedule_id!r} is active; its overlap policy is "
                f"{entry.overlap!r}"
            )
        return _made(request)

    def pause(self, schedule_id: str) -> Schedule:
        """Let a schedule make no more jobs; those that it made go on. Raises ScheduleNotFound."""
        if self.entries.hold(schedule_id) is None:
            raise _unknown(schedule_id)
        return self.get(schedule_id)

    def resume(self, schedule_id: str) -> Schedule:
        """Let a paused schedule go on; what fell due meanwhile is treated by its misfire policy.

        Raises ScheduleNotFound.
        """
        if self.entries.release(schedule_id) is None:
            raise _unknown(schedule_id)
        return self.get(schedule_id)

    def runs(self, schedule_id: str) -> list[Tick]:
        """Return what became of its last twenty ticks, the latest first; raises ScheduleNotFound.

        `Server.fetch` knows the jobs as long as they are kept.
        """
        self.get(schedule_id)
        return self.entries.ticks(schedule_id)

    def preview(self, cron: str, *, timezone: str = "UTC", count: int = 10) -> list[datetime]:
        """Return the next times of a cron expression, in its time zone; raises PayloadInvalid."""
        entry = Entry(id="preview", type="", payload={}, cron=cron, timezone=timezone)
        wrong = entry.problems()
        if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= PREVIEWED:
            detail = f"Must be a whole number from 1 to {PREVIEWED}."
            wrong.append({"pointer": "#/count", "detail": detail})
        if wrong:
            raise PayloadInvalid(errors=wrong)
        ticks = islice(entry.ticks(after=self.entries.now()), count)
        return [datetime.fromtimestamp(tick / 1000, tz=zone(timezone)) for tick in ticks]

    def firing(self, entry: Entry, step: Step) -> Firing:
        """Return one step of an entry with its job.

        Raises UnknownJobType, PayloadInvalid, PayloadTooLarge.
        """
        if step.fires is None:
            return Firing(entry=entry, step=step)
        request, retention = self._request(entry, step.fires, job_id=entry.tick_id(step.fires))
        return Firing(entry=entry, step=step, request=request, retention=retention)

    def fire(self, firings: Sequence[Firing]) -> list[Fired]:
        """Fire entries, and tell the listeners which jobs that canceled."""
        fired = self.entries.fire(firings)
        for one in fired:
            if one.canceled:
                self._server.tell(one.canceled, "canceled")
        return fired

    def _request(self, entry: Entry, tick: int, *, job_id: str) -> tuple[EnqueueRequest, Retention]:
        kind = self._server.registry.job_type(entry.type)
        request = self._server.request(
            kind,
            entry.payload,
            key=job_id,
            call=job_id,
            scheduled_at=tick / 1000,
            trace=job_id,
            settings=self._server.settings(kind, priority=entry.priority),
        )
        return request, kind.queue.retention

    def _job_problems(self, entry: Entry) -> list[FieldError]:
        try:
            kind = self._server.registry.job_type(entry.type)
            kind.prepare(entry.payload)
        except UnknownJobType as error:
            return [{"pointer": "#/type", "detail": f"{error}."}]
        except PayloadInvalid as error:
            return [
                {**one, "pointer": one["pointer"].replace("#", "#/payload", 1)}
                for one in error.errors
            ]
        if REDACTED in kind.secrets_of(entry.payload):
            detail = f"A secret is {REDACTED!r}, as it is shown: give what it is."
            return [{"pointer": "#/payload", "detail": detail}]
        return []

    @staticmethod
    def _check_not_declared(entry: Entry, advice: str) -> None:
        if entry.origin == "registry":
            raise WrongState(f"Schedule {entry.id!r} is declared in code: {advice}")


def _unknown(schedule_id: str) -> ScheduleNotFound:
    return ScheduleNotFound(f"No schedule with id {schedule_id!r} is known")


def _made(request: EnqueueRequest) -> Job:
    queue, priority = queue_of(request.origin)
    return Job(
        id=request.id,
        run_id=request.run,
        type=request.type,
        queue=queue,
        priority=priority,
        attempts=request.attempts,
    )
