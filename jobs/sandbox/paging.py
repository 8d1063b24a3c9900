"""Pages of numbered records: a cursor is the number of the last record that was shown."""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jobs.sandbox.door import Refused

LARGEST = 500
MOST_IDS = 100


def page(
    asked: Mapping[str, str], *, total: int, record: Callable[[int], Any | None]
) -> tuple[list[Any], str | None]:
    """Return a page of the records 1 to `total`, and the cursor of the next one.

    `record` gives the record of a number; None: it is not there (any more). Raises Refused.
    """
    after, limit = _number(asked), _limit(asked)
    found: list[Any] = []
    for number in range(after + 1, total + 1):
        if len(found) == limit:
            return found, urlsafe_b64encode(b"after %d" % (number - 1)).decode()
        if (one := record(number)) is not None:
            found.append(one)
    return found, None


def ids(asked: Mapping[str, str]) -> Sequence[str]:
    """Return the ids that were asked for. Raises Refused for too many."""
    wanted = list(dict.fromkeys(one for one in asked["ids"].split(",") if one))
    if len(wanted) > MOST_IDS:
        raise Refused(400, "too_many_ids", f"At most {MOST_IDS} ids at a time")
    return wanted


def _limit(asked: Mapping[str, str]) -> int:
    text = asked.get("limit", "100")
    if not text.isdecimal() or not 1 <= int(text) <= LARGEST:
        raise Refused(400, "bad_limit", f"limit is a number from 1 to {LARGEST}")
    return int(text)


def _number(asked: Mapping[str, str]) -> int:
    if not (cursor := asked.get("cursor")):
        return 0
    try:
        word, _, number = urlsafe_b64decode(cursor).partition(b" ")
        if word == b"after":
            return int(number)
    except (Error, ValueError):
        pass
    raise Refused(400, "bad_cursor", "There is no such cursor")
