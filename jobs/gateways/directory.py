"""The directory over HTTP: its users, projects and issues, page by page."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from jobs.gateways.errors import VendorRefused, VendorUnavailable
from jobs.records.sync_run import Refusal
from jobs.settings import current_settings
from jobserver import RateLimited

if TYPE_CHECKING:
    import httpx

T = TypeVar("T")

RATE_KEY = "directory"
"""What job types that ask the directory have as `limit_key`: one token, one rate limit."""

LARGEST_PAGE = 100
LONGEST_TEXT = 255
UNTOLD_WAIT = 30.0  # seconds, where a 429 does not say how long
LONGEST_WAIT = 3600.0  # seconds: no header makes a sync wait longer

Record = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class DirectoryUser:
    """A user as the directory has them."""

    id: str
    username: str
    email: str
    first_name: str | None
    last_name: str | None
    title: str | None
    department: str | None
    active: bool
    changed_at: datetime | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Page(Generic[T]):
    """Some records, and the cursor of the next page, None behind the last; `total` of all pages.

    `refusals` are the records that make no sense. `etag` makes the next reading conditional.
    """

    items: Sequence[T]
    refusals: Sequence[Refusal]
    cursor: str | None
    total: int | None
    etag: str | None


class Directory:
    """A connection to the directory that the settings name, for a `with`.

    Its methods raise RateLimited when there were too many requests, VendorUnavailable when it
    can't answer, VendorRefused when it won't.
    """

    def __init__(self) -> None:
        import httpx

        settings = current_settings()
        if settings.directory_url is None:
            raise VendorRefused("DIRECTORY_URL is not set: there is no directory to ask")
        self._http = httpx.Client(
            base_url=settings.directory_url,
            headers={"Authorization": f"Bearer {settings.directory_token}"},
            timeout=settings.directory_timeout,
        )
        self._trouble = (httpx.HTTPError, httpx.InvalidURL)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def users(self, *, cursor: str, limit: int) -> Page[DirectoryUser]:
        """Return a page of all users; the cursor of the first is empty."""
        return self.page("directory/users", cursor=cursor, limit=limit, read=read_user)

    def users_of(self, ids: Sequence[str], *, etag: str | None) -> Page[DirectoryUser] | None:
        """Return the users with these ids, LARGEST_PAGE at most, without those that are gone.

        None when they are what they were when the answer had this `etag`.
        """
        response = self._get("directory/users", {"ids": ",".join(ids)}, etag=etag)
        return None if response.status_code == 304 else _page(response, "users", read_user)

    def page(self, path: str, *, cursor: str, limit: int, read: Callable[[Record], T]) -> Page[T]:
        """Return a page of what lies at `path`, whose last word names the list in the answer.

        `read` makes an item of a record; it raises ValueError for one that makes no sense.
        """
        query = {"limit": str(limit)} | ({"cursor": cursor} if cursor else {})
        page = _page(self._get(path, query), path.rpartition("/")[2], read)
        if page.cursor == cursor:
            raise VendorUnavailable(f"The directory's page {cursor!r} is followed by itself")
        return page

    def _get(
        self, path: str, query: Mapping[str, str], *, etag: str | None = None
    ) -> httpx.Response:
        headers = {"If-None-Match": etag} if etag else {}
        try:
            response = self._http.get(path, params=query, headers=headers)
        except self._trouble as error:
            raise VendorUnavailable(f"The directory can't be reached: {error!r}") from error
        status = response.status_code
        if status == 429:
            raise RateLimited(_wait(response.headers.get("Retry-After")))
        if status >= 500:
            raise VendorUnavailable(f"The directory answered {status} for {path}")
        if status != 200 and not (status == 304 and etag):
            raise VendorRefused(f"The directory answered {status} for {path}")
        return response


def _page(response: httpx.Response, name: str, read: Callable[[Record], T]) -> Page[T]:
    try:
        body = json.loads(response.content)
        records, cursor, total = body[name], body.get("nextCursor"), body.get("total")
        if not isinstance(records, list) or not isinstance(cursor, str | None):
            raise TypeError(f"{name} is no list, or nextCursor no text")
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise VendorUnavailable(f"The directory's answer with {name}: {error!r:.500}") from None
    items, refusals = _sorted_out(records, read)
    return Page(
        items=items,
        refusals=refusals,
        cursor=cursor or None,
        total=total if isinstance(total, int) else None,
        etag=_short(response.headers.get("ETag")),
    )


def read_user(record: Record) -> DirectoryUser:
    """Return the user that a record describes; raises ValueError when it makes no sense."""
    email = text_of(record, "email")
    if not 0 < email.find("@") < len(email) - 1:
        raise ValueError(f"email is {email!r}, no address")
    active = record.get("active")
    if not isinstance(active, bool):
        raise ValueError(f"active is {active!r}, neither true nor false")
    return DirectoryUser(
        id=id_of(record),
        username=text_of(record, "username"),
        email=email,
        first_name=optional_text_of(record, "firstName"),
        last_name=optional_text_of(record, "lastName"),
        title=optional_text_of(record, "title"),
        department=optional_text_of(record, "department"),
        active=active,
        changed_at=moment_of(record, "updatedAt"),
    )


def id_of(record: Record) -> str:
    """Return the id of a record; raises ValueError for one that can't stand in a list of ids."""
    found = text_of(record, "id")
    if "," in found:
        raise ValueError(f"id is {found!r}, with a comma")
    return found


def text_of(record: Record, name: str) -> str:
    """Return a text that a record must have; raises ValueError."""
    found = optional_text_of(record, name)
    if not found:
        raise ValueError(f"{name} is {found!r}, no text")
    return found


def optional_text_of(record: Record, name: str) -> str | None:
    """Return a text that a record may have; raises ValueError for what no database keeps."""
    found = record.get(name)
    if found is None:
        return None
    if not isinstance(found, str):
        raise ValueError(f"{name} is {found!r:.100}, no text")
    if len(found) > LONGEST_TEXT:
        raise ValueError(f"{name} has {len(found)} characters, over {LONGEST_TEXT}")
    if not found.isprintable() and ("\0" in found or _has_surrogates(found)):
        raise ValueError(f"{name} is {found!r}, with characters that are none")
    return found


def moment_of(record: Record, name: str) -> datetime | None:
    """Return a time that a record may have, in UTC; raises ValueError for one without offset."""
    found = optional_text_of(record, name)
    if found is None:
        return None
    try:
        moment = datetime.fromisoformat(found)
        if moment.tzinfo is None:
            raise ValueError(f"{name} is {found!r}, without its offset from UTC")
        return moment.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{name} is {found!r}, no time: {error}") from None


def _sorted_out(
    records: Sequence[Any], read: Callable[[Record], T]
) -> tuple[list[T], list[Refusal]]:
    items: list[T] = []
    refusals: list[Refusal] = []
    seen: set[str] = set()
    for record in records:
        identity = None
        try:
            if not isinstance(record, dict):
                raise ValueError(f"{record!r:.100} is no object")
            identity = id_of(record)
            if identity in seen:
                raise ValueError("its id stands twice on a page")
            seen.add(identity)
            items.append(read(record))
        except ValueError as error:
            refusals.append(Refusal(identity, str(error)))
    return items, refusals


def _has_surrogates(text: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in text)


def _short(header: str | None) -> str | None:
    return header if header and len(header) <= LONGEST_TEXT else None


def _wait(header: str | None) -> float:
    """Return how long Retry-After says to wait: seconds, or a date (RFC 9110 §10.2.3)."""
    text = (header or "").strip()
    if text.isdecimal():
        return min(float(text), LONGEST_WAIT)
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return UNTOLD_WAIT
    return min(max(0.0, moment.timestamp() - time.time()), LONGEST_WAIT)
