"""Pages of a listing: a signed cursor says where the next one begins."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from flask import current_app, request
from itsdangerous import BadSignature, URLSafeSerializer

from jobserver.errors import FieldError, PayloadInvalid

DEFAULT_LIMIT = 50
LARGEST_LIMIT = 200

Row = TypeVar("Row")


@dataclass(frozen=True, kw_only=True)
class Page:
    """What a request asks for: at most `limit` rows, those behind the one with the id `after`."""

    limit: int
    after: int | None


@dataclass(frozen=True, kw_only=True)
class Listing(Generic[Row]):
    """The rows of one page, and the cursor of the next one, if there is one."""

    rows: Sequence[Row]
    next_cursor: str | None

    def headers(self, url: str) -> dict[str, str]:
        """Return the Link header to the next page (RFC 8288); `url` is that of the listing."""
        if self.next_cursor is None:
            return {}
        return {"Link": f'<{url}?limit={_limit()}&cursor={self.next_cursor}>; rel="next"'}

    def body(self, show: Callable[[Row], dict[str, Any]]) -> dict[str, Any]:
        """Return {items, nextCursor}."""
        return {"items": [show(row) for row in self.rows], "nextCursor": self.next_cursor}


def requested_page(*, of: str) -> Page:
    """Read `?limit=` and `?cursor=`; `of` names the listing, whose cursors fit no other.

    Raises PayloadInvalid.
    """
    cursor = request.args.get("cursor")
    if cursor is None:
        return Page(limit=_limit(), after=None)
    try:
        return Page(limit=_limit(), after=int(_signer(of).loads(cursor)))
    except (BadSignature, ValueError, TypeError):
        raise PayloadInvalid(
            errors=[_wrong("cursor", "the nextCursor of a page of this listing is accepted.")]
        ) from None


def listing(
    rows: Sequence[Row], *, page: Page, of: str, row_id: Callable[[Row], int]
) -> Listing[Row]:
    """Return the page made of `rows`, which are up to one more than its limit."""
    shown = rows[: page.limit]
    more = len(rows) > page.limit
    return Listing(
        rows=shown, next_cursor=str(_signer(of).dumps(row_id(shown[-1]))) if more else None
    )


def _limit() -> int:
    text = request.args.get("limit", str(DEFAULT_LIMIT))
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= LARGEST_LIMIT):
        raise PayloadInvalid(
            errors=[_wrong("limit", f"a whole number from 1 to {LARGEST_LIMIT} is accepted.")]
        )
    return int(text)


def _wrong(name: str, accepted: str) -> FieldError:
    return {"pointer": f"#/{name}", "detail": f"{name}: {accepted}"}


def _signer(of: str) -> URLSafeSerializer:
    secret = current_app.secret_key or current_app.import_name
    return URLSafeSerializer(secret, salt=f"cursor of {of}")
