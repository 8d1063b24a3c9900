"""The Lua scripts: read once, sent by their hash, loaded again when the server forgot them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Any

from redis import Redis
from redis.exceptions import NoScriptError

from jobserver.broker import keys

Argument = str | int | float | bytes
Call = tuple[str, Sequence[Argument]]


class Scripts:
    """The scripts against one server. Every one of them is safe to repeat after NOSCRIPT."""

    def __init__(self, connection: Redis, *, max_events: int) -> None:
        self._connection = connection
        self._texts = {name: _text(name, max_events) for name in _names()}
        # EVALSHA wants SHA-1; nothing secret hangs on it.
        self._shas = {
            name: hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
            for name, text in self._texts.items()
        }

    def run(self, name: str, *arguments: Argument) -> Any:
        """Run one script in one round trip."""
        command = ("EVALSHA", self._shas[name], 0, *arguments)
        try:
            return self._connection.execute_command(*command)
        except NoScriptError:
            self._load()
            return self._connection.execute_command(*command)

    def run_all(self, calls: Sequence[Call]) -> list[Any]:
        """Run several scripts in one round trip; an answer that is an error is raised.

        After NOSCRIPT all are sent again: those that had run answer as repeats.
        """
        for attempt in (1, 2):
            pipe = self._connection.pipeline(transaction=False)
            for name, arguments in calls:
                pipe.execute_command("EVALSHA", self._shas[name], 0, *arguments)
            answers = pipe.execute(raise_on_error=False)
            failed = [answer for answer in answers if isinstance(answer, Exception)]
            if not failed:
                return answers
            if attempt == 1 and any(isinstance(error, NoScriptError) for error in failed):
                self._load()
                continue
            raise failed[0]
        raise AssertionError("unreachable")

    def _load(self) -> None:
        pipe = self._connection.pipeline(transaction=False)
        for text in self._texts.values():
            pipe.script_load(text)
        pipe.execute()


@cache
def _names() -> tuple[str, ...]:
    found = (entry.name for entry in files(__package__).joinpath("scripts").iterdir())
    return tuple(sorted(n[:-4] for n in found if n.endswith(".lua") and not n.startswith("_")))


@cache
def _source(name: str) -> str:
    return files(__package__).joinpath("scripts", f"{name}.lua").read_text(encoding="utf-8")


def _text(name: str, max_events: int) -> str:
    text = _source("_state") + _source(name)
    for mark, value in (("@RQ@", keys.RQ), ("@OURS@", keys.OURS), ("@EVENTS@", str(max_events))):
        text = text.replace(mark, value)
    return text
