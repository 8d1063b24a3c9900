"""The Lua scripts: read once, sent by their hash, loaded again when the server forgot them."""

from __future__ import annotations

import copy
import hashlib
import re
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any

import hiredis
from redis import Redis
from redis.exceptions import NoScriptError, ResponseError

from jobserver.broker import keys

Argument = str | int | float | bytes
Call = tuple[str, Sequence[Argument]]


class Scripts:
    """The scripts against one server. Every one of them is safe to repeat after NOSCRIPT."""

    def __init__(self, connection: Redis, *, max_events: int, max_backlog: int) -> None:
        self._connection = connection
        bounds = {"EVENTS": max_events, "BACKLOG": max_backlog}
        self._texts = {name: _text(name, bounds) for name in _names()}
        # EVALSHA wants SHA-1; nothing secret hangs on it.
        self._shas = {
            name: hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
            for name, text in self._texts.items()
        }

    def on(self, connection: Redis) -> Scripts:
        """Return the same scripts on another connection."""
        other = copy.copy(self)
        other._connection = connection
        return other

    def run(self, name: str, *arguments: Argument) -> Any:
        """Run one script in one round trip."""
        return self.run_all([(name, arguments)])[0]

    def run_all(self, calls: Sequence[Call]) -> list[Any]:
        """Run several scripts in one round trip; an answer that is an error is raised.

        After NOSCRIPT all are sent again: those that had run answer as repeats.
        """
        packed = self.packed(calls)
        answers = self._exchange(packed)
        if any(isinstance(answer, NoScriptError) for answer in answers):
            self.load()
            answers = self._exchange(packed)
        return _checked(answers)

    def exchange(self, commands: Sequence[Sequence[Argument]]) -> list[Any]:
        """Send plain commands in one round trip; an answer that is an error is raised."""
        packed = [_packed(command) for command in commands]
        return _checked(self._exchange(packed)) if packed else []

    def _exchange(self, packed: Sequence[bytes]) -> list[Any]:
        # What redis-py's own pipeline does, without half of its cost: one to four commands at a
        # time, thousands of times a second.
        pool = self._connection.connection_pool
        connection = pool.get_connection()
        try:
            connection.send_packed_command([b"".join(packed)])
            return [_answer(connection) for _ in packed]
        except BaseException:
            connection.disconnect()  # half an answer must not be read by the next
            raise
        finally:
            pool.release(connection)

    def packed(self, calls: Sequence[Call]) -> list[bytes]:
        """Return what has to be sent for each of some calls."""
        return [_packed(("EVALSHA", self._shas[name], 0, *given)) for name, given in calls]

    def load(self) -> None:
        """Make the server know all scripts."""
        pipe = self._connection.pipeline(transaction=False)
        for text in self._texts.values():
            pipe.script_load(text)
        pipe.execute()


def _packed(command: Sequence[Argument]) -> bytes:
    # redis-py's own packing looks at each argument first, for types that we never have.
    # Its stub says that there is one.
    packed: bytes = hiredis.pack_command(tuple(command))  # type: ignore[arg-type]
    return packed


def _checked(answers: list[Any]) -> list[Any]:
    for answer in answers:
        if isinstance(answer, Exception):
            raise answer
    return answers


def _answer(connection: Any) -> Any:
    try:
        return connection.read_response()
    except ResponseError as error:
        return error


@cache
def _names() -> tuple[str, ...]:
    found = (entry.name for entry in files(__package__).joinpath("scripts").iterdir())
    return tuple(sorted(n[:-4] for n in found if n.endswith(".lua") and not n.startswith("_")))


@cache
def _source(name: str) -> str:
    return files(__package__).joinpath("scripts", f"{name}.lua").read_text(encoding="utf-8")


def _text(name: str, bounds: Mapping[str, int]) -> str:
    # What a script gathered is sent at its end, wherever it returns.
    body = f"local function main()\n{_source(name)}end\nlocal answer = main()\nsettle()\n"
    text = f"{_shared(body)}{body}return answer\n"
    for mark, value in {"RQ": keys.RQ, "OURS": keys.OURS, **bounds}.items():
        text = text.replace(f"@{mark}@", str(value))
    return text


@cache
def _shared(body: str) -> str:
    """Return the paragraphs of _state.lua that define what a script mentions, and those they need.

    Each definition costs each call of the script: a server runs all of its text every time.
    """
    first, *others = _source("_state").split("\n\n")
    needed: list[str] = []
    mentioned = set(_words(body))
    for paragraph in reversed(others):
        if mentioned & _words(" ".join(_DEFINED.findall(paragraph))):
            needed.insert(0, paragraph)
            mentioned |= _words(paragraph)
    return "\n".join([first, *needed, ""])


@cache
def _words(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"\w+", re.sub(r"--.*|'[^'\n]*'", "", text)))


_DEFINED = re.compile(r"^local (?:function )?([\w, ]+)", re.MULTILINE)
