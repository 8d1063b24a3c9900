"""What failures have in common: the same fault in the same place, whatever its values were."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path, PurePath

MOST_SHAPED = 1000  # characters of a message that are looked at

_ENGINE = str(Path(__file__).parents[1])
_FRAME = re.compile(r'^[ |]*File "([^"\n]+)", line \d+, in (.+?) *$', re.MULTILINE)
_FOREIGN = re.compile(
    r"[/\\](?:site|dist)-packages[/\\]|[/\\]lib(?:64)?[/\\]python\d[\d.]*[/\\]|^<"
)

_URL = re.compile(r"\b[a-z][a-z0-9+.-]*://[^\s'\"<>]+", re.IGNORECASE)
_PATH = re.compile(r"(?<![\w/.>])(?:[A-Za-z]:\\|~?/|\.{1,2}/)[^\s'\"`:,;()<>\[\]]+")
# A quote inside a word is an apostrophe.
_QUOTED = re.compile(r"""(?<!\w)(?:'[^'\n]*'|"[^"\n]*"|`[^`\n]*`)(?!\w)""")
_NUMBER = re.compile(
    r"(?:(?<![\w.])[-+])?(?:"
    r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b"
    r"|\b(?:0x[0-9a-f]+|(?=[a-f]*\d)[0-9a-f]{8,})\b"
    r"|\d+(?:[.,]\d+)*)",
    re.IGNORECASE,
)

_SUBSTITUTES = (
    (_QUOTED, "'…'"),
    (_URL, "<path>"),
    (_PATH, "<path>"),
    (_NUMBER, "#"),
)


def fingerprint(type: str, error_type: str, message: str, traceback: str) -> str:
    """Return 16 hex digits that failures of one cause share; pure.

    They are of the job type, the error's type, the message's shape and the job's own frame that the
    error came through last: its module and function, not its line, which edits elsewhere move.
    """
    parts = (type, error_type, shape(message), own_frame(traceback))
    text = "\x1f".join(parts).encode(errors="backslashreplace")
    return hashlib.blake2b(text, digest_size=8).hexdigest()


def shape(message: str) -> str:
    """Return a message without what differs from one failure to the next.

    Numbers, UUIDs and other hexadecimal ids become `#`, what is quoted `'…'`, paths and URLs
    `<path>`.
    """
    shaped = message[:MOST_SHAPED]
    for pattern, substitute in _SUBSTITUTES:
        shaped = pattern.sub(substitute, shaped)
    return " ".join(shaped.split())


def own_frame(traceback: str) -> str:
    """Return the last frame that lies in neither library nor engine (`follows.sync fetch`), or ''.

    A module is known by the last two parts of its path: releases and hosts lie in other folders.
    """
    for path, function in reversed(_FRAME.findall(traceback)):
        if not _FOREIGN.search(path) and not path.startswith(_ENGINE):
            parts = PurePath(path.replace("\\", "/")).with_suffix("").parts[-2:]
            return f"{'.'.join(parts)} {function}"
    return ""
