"""Failures of one cause share a fingerprint, whatever their values, lines and folders are."""

from __future__ import annotations

import json
import re
import traceback
from pathlib import Path
from types import ModuleType
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobserver import payload
from jobserver.ledger.fingerprint import MOST_SHAPED, fingerprint, own_frame, shape

HEX = st.from_regex(r"[0-9a-f]{7,30}[0-9]", fullmatch=True)
NAMES = st.from_regex(r"[\w -]{1,20}", fullmatch=True)
VALUES = {
    "number": st.one_of(st.integers(), st.floats(0.01, 1e6).map(lambda n: f"{n:.3f}")).map(str),
    "uuid": st.uuids().map(str),
    "id": HEX,
    "address": HEX.map(lambda digits: f"0x{digits}"),
    "quoted": NAMES.map(lambda name: f"'{name}'"),
    "path": st.lists(st.from_regex(r"[\w.-]{1,8}", fullmatch=True), min_size=1).map(
        lambda parts: "/" + "/".join(parts)
    ),
    "url": NAMES.map(lambda name: "https://shop.example/" + name.strip().replace(" ", "_")),
}
MESSAGES = (
    "order {number} has no vendor",
    "can't read {path}: it doesn't exist",
    "no product {quoted} in shop {number} ({uuid})",
    "<Session object at {address}> is closed",
    "GET {url} answered {number}, request {id}",
)


@settings(max_examples=50)
@given(st.data(), st.sampled_from(MESSAGES))
def test_messages_that_differ_in_values_have_one_shape(data: st.DataObject, message: str) -> None:
    names = set(re.findall(r"{(\w+)}", message))
    first, second = (
        message.format(**{name: data.draw(VALUES[name]) for name in names}) for _ in range(2)
    )
    assert shape(first) == shape(second)


@settings(max_examples=50)
@given(st.text(), st.text(), st.text())
def test_any_text_has_a_fingerprint(error_type: str, message: str, text: str) -> None:
    found = fingerprint("system.job", error_type, message, text)
    assert re.fullmatch("[0-9a-f]{16}", found)
    assert len(shape(message)) <= 6 * MOST_SHAPED


def test_shapes_are_readable() -> None:
    uuid = UUID(int=7)
    assert shape(f"can't find 'x y' of {uuid} in /srv/a.csv") == "can't find '…' of # in <path>"
    assert shape("timed out after 12.5 s\n  at  line -3") == "timed out after # s at line #"
    assert shape("I/O error on and/or decade") == "I/O error on and/or decade"


@pytest.mark.parametrize(
    "other",
    [
        ("mail.send", "KeyError", "no 'x'", "fetch"),
        ("mail.post", "ValueError", "no 'x'", "fetch"),
        ("mail.send", "ValueError", "never 'x'", "fetch"),
        ("mail.send", "ValueError", "no 'x'", "store"),
    ],
)
def test_another_type_error_message_or_function_is_another_fault(other: tuple[str, ...]) -> None:
    def of(type_name: str, error_type: str, message: str, function: str) -> str:
        text = f'  File "/srv/shop/mail/jobs.py", line 7, in {function}\n'
        return fingerprint(type_name, error_type, message, text)

    assert of(*other) != of("mail.send", "ValueError", "no 'x'", "fetch")


def raised(folder: Path, source: str) -> str:
    """Return the traceback of `fetch()` in a module of that source."""
    path = folder / "follows" / "sync.py"
    path.parent.mkdir(parents=True)
    module = ModuleType("sync")
    exec(compile(source, str(path), "exec"), module.__dict__)  # noqa: S102
    try:
        module.fetch()
    except Exception as error:
        return "".join(traceback.format_exception(error))
    raise AssertionError("it did not fail")


@pytest.mark.parametrize(
    "fault",
    [
        "json.loads('x')",  # the standard library
        "schema.load({'x': 1})",  # an installed package
        "payload.job_id('\\udc00')",  # the engine
        "1 / 0",
    ],
)
def test_lines_and_folders_do_not_matter_but_the_own_function(tmp_path: Path, fault: str) -> None:
    head = "import json, marshmallow\nfrom jobserver import payload\n"
    tail = f"schema = marshmallow.Schema()\ndef fetch():\n    return {fault}\n"
    before = raised(tmp_path / "one", head + tail)
    after = raised(tmp_path / "two", head + "# a line more\n" * 40 + tail)
    assert own_frame(before) == own_frame(after) == "follows.sync fetch"


def test_of_a_chain_and_of_a_group_the_last_own_frame_counts(tmp_path: Path) -> None:
    chain = (
        "def cause():\n    raise KeyError(1)\n"
        "def fetch():\n    try:\n        cause()\n    except KeyError as e:\n"
        "        raise ValueError from e\n"
    )
    assert own_frame(raised(tmp_path / "chain", chain)) == "follows.sync fetch"
    group = (
        "def part():\n    raise KeyError(1)\n"
        "def fetch():\n    try:\n        part()\n    except KeyError as e:\n"
        "        raise ExceptionGroup('two', [e])\n"
    )
    assert own_frame(raised(tmp_path / "group", group)) == "follows.sync part"


def test_a_failure_without_frames_of_its_own_has_none() -> None:
    assert own_frame("worker lost") == ""
    assert own_frame(f'  File "{json.__file__}", line 3, in loads\n') == ""
    assert own_frame(f'  File "{payload.__file__}", line 3, in loads\n') == ""
    assert own_frame('  File "<frozen runpy>", line 3, in run\n') == ""
