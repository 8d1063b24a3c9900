"""The scripts' texts: each has what it needs of the shared steps, and little else."""

from __future__ import annotations

import re

import pytest

from jobserver.broker import scripts

BOUNDS = {"EVENTS": 1000, "BACKLOG": 2000}


def functions(text: str) -> list[str]:
    return re.findall(r"^local function (\w+)", text, re.MULTILINE)


def test_a_script_gets_what_it_mentions_and_what_that_needs() -> None:
    assert functions(scripts._shared("x = limit_key('a')")) == ["limit_key"]
    assert functions(scripts._shared("hold('a', 5)")) == ["limit_key", "hold"]
    assert functions(scripts._shared("-- hold('a', 5)")) == []
    assert "trim" not in functions(scripts._text("quota", BOUNDS))
    assert "local ISO" not in scripts._shared("x = NOW")
    assert scripts._shared("x = ISO").index("local TIME") < scripts._shared("x = ISO").index("ISO")


@pytest.mark.parametrize("name", scripts._names())
def test_nothing_is_used_before_it_is_defined(name: str) -> None:
    text = re.sub(r"--.*|'[^']*'", "", scripts._text(name, BOUNDS))
    assert "@" not in text
    shared = re.findall(r"^local (?:function )?([\w, ]+)", scripts._source("_state"), re.MULTILINE)
    for word in {word for names in shared for word in re.findall(r"\w+", names)}:
        used = re.search(rf"(?<![.\w]){word}(?!\w)", text)
        defined = re.search(rf"local (?:function )?(?:[\w, ]*\b)?{word}\b", text)
        if used:
            assert defined, word
            assert defined.start() <= used.start(), word
