"""One setting: where its text comes from, what is accepted, how it is read and refused."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import MISSING, dataclass, field
from typing import Any, TypeVar

from jobserver.errors import ConfigInvalid

N = TypeVar("N", int, float)


@dataclass(frozen=True)
class Kind:
    """What a setting accepts, in words, and how its text is read; `parse` raises ValueError."""

    accepts: str
    parse: Callable[[str], Any]


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Where a field of a config comes from: a variable, else a file in the instance directory.

    `shown` is the default as the table prints it. The value of a `secret` never reaches a message.
    """

    variable: str
    kind: Kind
    help: str
    shown: str
    file: str | None = None
    secret: bool = False


def setting(
    variable: str,
    *,
    kind: Kind,
    help: str,
    default: object = MISSING,
    default_factory: Callable[[], object] | None = None,
    shown: str | None = None,
    file: str | None = None,
    secret: bool = False,
    repr: bool = True,
) -> Any:
    """Declare a dataclass field that `Config.from_env` fills from `variable`.

    `repr=False` keeps a value that may hold a password out of the config's repr, as `secret` does.
    """
    source = Setting(
        variable=variable,
        kind=kind,
        help=help,
        shown=str(default) if shown is None else shown,
        file=file,
        secret=secret,
    )
    metadata = {"setting": source}
    repr = repr and not secret
    if default_factory is not None:
        return field(default_factory=default_factory, metadata=metadata, repr=repr)
    return field(default=default, metadata=metadata, repr=repr)


def whole_number(at_least: int, *, at_most: int = 10**15) -> Kind:
    """Accept a whole number within bounds, both included."""
    bounds = f"≥ {at_least}" if at_most == 10**15 else f"from {at_least} to {at_most}"
    return Kind(f"a whole number {bounds}", lambda text: _within(int(text), at_least, at_most))


def number(at_least: float) -> Kind:
    """Accept a finite number, whole or decimal."""
    return Kind(f"a number ≥ {at_least:g}", lambda text: _within(float(text), at_least, 1e15))


def choice(*words: str) -> Kind:
    """Accept one of a few words, in any case; the value is the word as spelled here."""
    spelled = {word.lower(): word for word in words}

    def parse(text: str) -> str:
        if text.lower() not in spelled:
            raise ValueError(text)
        return spelled[text.lower()]

    return Kind(" or ".join(words), parse)


def text_like(pattern: str, *, accepts: str) -> Kind:
    """Accept text that as a whole matches a regular expression."""

    def parse(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise ValueError(text)
        return text

    return Kind(accepts, parse)


def parsed(text: str, kind: Kind, *, name: str, secret: bool = False) -> Any:
    """Read `text`, the value of `name`; raises ConfigInvalid: name, value, what is accepted."""
    try:
        return kind.parse(text)
    except ValueError:
        # A URL keeps its scheme and host in the message, its user and password are masked.
        masked = re.sub(r"^([a-z0-9+]+://)?.*@", r"\1***@", text)
        shown = "its value" if secret else repr(masked)
        raise ConfigInvalid(f"{name}: {shown} is not accepted; use {kind.accepts}") from None


def _within(value: N, at_least: float, at_most: float) -> N:
    if not at_least <= value <= at_most:  # also false for nan
        raise ValueError(value)
    return value
