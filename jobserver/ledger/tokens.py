"""Bearer tokens: made once, kept as hashes, looked up with a short memory.

SHA-256 is enough for them: a secret of 256 random bits can be neither guessed nor found in a
dictionary, so a slow hash would only slow down every poll.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from threading import Lock

from sqlalchemy import Column, insert, select, update
from sqlalchemy.exc import IntegrityError

from jobserver.errors import NoDatabase, NotMigrated, PayloadInvalid, TokenExists, TokenNotFound
from jobserver.ledger.database import database
from jobserver.ledger.models import tokens

PREFIX = "jobserver_"  # for those who scan logs and repositories for secrets
RESERVED = frozenset({"admin", "local"})
MEMORY_SECONDS = 5.0
MOST_REMEMBERED = 10_000

_SECRET = re.compile(PREFIX + r"[A-Za-z0-9_-]{43}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Token:
    """A token as the database has it; only its hash is kept."""

    name: str
    digest: str = field(repr=False)
    role: str
    owner: str | None
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None

    def is_valid(self, now: datetime) -> bool:
        """Tell whether it may be used at that time."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)


def create(
    db: object,
    *,
    name: str,
    role: str,
    owner: str | None = None,
    expires_at: datetime | None = None,
) -> str:
    """Make a token and return its secret, which nothing can show again.

    A name is given once for ever, as actions are known by it. Raises PayloadInvalid, TokenExists,
    NoDatabase, DatabaseUnavailable.
    """
    if not _NAME.fullmatch(name) or name in RESERVED:
        detail = "Use up to 64 letters, digits and . _ -, but neither admin nor local."
        raise PayloadInvalid(errors=[{"pointer": "#/name", "detail": detail}])
    if (role == "user") != bool(owner):
        detail = "Needed for the role user, which sees what is its owner's, and for no other."
        raise PayloadInvalid(errors=[{"pointer": "#/owner", "detail": detail}])
    secret = PREFIX + secrets.token_urlsafe(32)
    values = {
        "name": name,
        "digest": _digest(secret),
        "role": role,
        "owner": owner,
        "created_at": datetime.now(UTC),
        "expires_at": expires_at,
    }
    with database(db) as engine:
        try:
            with engine.begin() as connection:
                connection.execute(insert(tokens).values(values))
        except IntegrityError:
            raise TokenExists(
                f"There is or was a token {name!r}; take another name, as actions are known by it"
            ) from None
    return secret


def revoke(db: object, name: str) -> Token:
    """Let a token be refused from now on, by every process within 5 seconds; return it as it was.

    Raises TokenNotFound, NoDatabase, DatabaseUnavailable.
    """
    with database(db) as engine, engine.begin() as connection:
        row = connection.execute(select(tokens).where(tokens.c.name == name)).mappings().first()
        if row is None:
            raise TokenNotFound(f"There is no token {name!r}")
        connection.execute(
            update(tokens)
            .where(tokens.c.name == name, tokens.c.revoked_at.is_(None))
            .values(revoked_at=datetime.now(UTC))
        )
    return Token(**row)


def listed(db: object) -> Sequence[Token]:
    """Return all tokens ever made, by name. Raises NoDatabase, DatabaseUnavailable."""
    with database(db) as engine, engine.connect() as connection:
        rows = connection.execute(select(tokens).order_by(tokens.c.name)).mappings()
        return [Token(**row) for row in rows]


class Tokens:
    """The tokens as this process knows them: a look at SQL holds for 5 seconds, so polling is free.

    `clock` returns Unix seconds. Raises DatabaseUnavailable for what it does not remember.
    """

    def __init__(self, db: object, *, clock: Callable[[], float] = time.time) -> None:
        self._db = db
        self._clock = clock
        self._lock = Lock()
        self._seen: OrderedDict[tuple[str, str], tuple[float, Token | None]] = OrderedDict()

    @property
    def are_possible(self) -> bool:
        """Tell whether there is a database that may hold tokens."""
        return self._db is not None

    def with_secret(self, secret: str) -> Token | None:
        """Return the valid token with this secret."""
        if not _SECRET.fullmatch(secret):
            return None  # nothing else costs SQL, a host's own bearer tokens for one
        digest = _digest(secret)
        token = self._look(tokens.c.digest, digest)
        return token if token and hmac.compare_digest(token.digest, digest) else None

    def named(self, name: str) -> Token | None:
        """Return the valid token with this name."""
        return self._look(tokens.c.name, name)

    def _look(self, column: Column[str], value: str) -> Token | None:
        now = self._clock()
        key = (column.name, value)
        with self._lock:
            at, token = self._seen.get(key, (None, None))
        if at is None or not 0 <= now - at < MEMORY_SECONDS:  # the clock may be set back
            token = self._read(column, value)
            with self._lock:
                self._seen[key] = (now, token)
                self._seen.move_to_end(key)
                if len(self._seen) > MOST_REMEMBERED:
                    self._seen.popitem(last=False)
        return token if token and token.is_valid(datetime.fromtimestamp(now, UTC)) else None

    def _read(self, column: Column[str], value: str) -> Token | None:
        try:
            with database(self._db) as engine, engine.connect() as connection:
                row = connection.execute(select(tokens).where(column == value)).mappings().first()
        except NoDatabase:
            return None
        except NotMigrated as error:
            logger.warning("no token is known: %s", error)
            return None
        return Token(**row) if row else None


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
