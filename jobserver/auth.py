"""Who is asking, and what they may do: bearer tokens, browser sessions, the host app's users.

Works on werkzeug requests, so pages and API share it; it answers nothing itself, it raises.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import logging
import re
import secrets
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from typing import Literal

from itsdangerous import BadSignature, URLSafeTimedSerializer
from werkzeug.wrappers import Request

from jobserver.config import Config
from jobserver.errors import ConfigInvalid, DatabaseUnavailable, Forbidden, Unauthorized
from jobserver.ledger.tokens import Token, Tokens

Role = Literal["user", "viewer", "operator", "admin"]

GATE = "jobserver.gate"  # where an app keeps its Gate: app.extensions
SESSION_COOKIE = "jobserver_session"
SESSION_SECONDS = 12 * 3600
TICKET_SECONDS = 60
CSRF_FIELD = "csrf_token"
CSRF_HEADER = "X-CSRF-Token"

ADMIN = "admin"  # the name of who has the admin token; no other token has it

_RANK: dict[Role, int] = {"user": 0, "viewer": 1, "operator": 2, "admin": 3}
_PORT = re.compile(r":\d*$")
_FORWARDED = ("Forwarded", "X-Forwarded", "X-Real-Ip", "Via")
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Principal:
    """Who is asking. A `user` sees only the jobs of its `owner`; the other roles see all."""

    name: str
    role: Role = "user"
    owner: str | None = None

    def may(self, role: Role) -> bool:
        """Tell whether this principal may do what `role` may."""
        return _RANK[self.role] >= _RANK[role]

    def sees(self, owner: str | None) -> bool:
        """Tell whether this principal may see a job with that owner."""
        return self.role != "user" or (owner is not None and owner == self.owner)


PrincipalHook = Callable[[], Principal | None]


@dataclass(frozen=True, kw_only=True)
class Credential:
    """A principal and how it proved itself; `csrf` is what a session's writes must carry."""

    principal: Principal
    proof: Literal["hook", "token", "session", "local"]
    csrf: str | None = None

    @property
    def identity(self) -> str:
        """Whose requests these are: a token's and its session's are one asker's, a host's not."""
        issuer = "host" if self.proof == "hook" else "jobserver"
        return repr((issuer, self.principal.name, self.principal.owner))


def check_config(config: Config) -> None:
    """Refuse settings that would let strangers in; raises ConfigInvalid."""
    if config.auth == "off" and config.proxy_hops:
        raise ConfigInvalid(
            f"JOBSERVER_AUTH='off' admits local requests only and cannot be combined with "
            f"PROXY_HOPS={config.proxy_hops!r}; set JOBSERVER_AUTH=on or PROXY_HOPS=0"
        )


class Gate:
    """The one place that knows how a request proves who it is."""

    def __init__(
        self,
        config: Config,
        *,
        tokens: Tokens | None = None,
        hook: PrincipalHook | None = None,
        app_secret: Callable[[], str | bytes | None] = lambda: None,
    ) -> None:
        check_config(config)
        self._config = config
        self._tokens = tokens or Tokens(None)
        self._hook = hook
        self._app_secret = app_secret  # a host may set its secret key after we are on its app

    def identify(self, request: Request) -> Credential | None:
        """Return who is asking, None for nobody; raises Unauthorized for a wrong bearer token.

        A credential of ours comes before the host's: its users may hold one too.
        """
        with _logged(request):
            token = _bearer_token(request)
            if token is not None and (principal := self.principal_of(token)):
                return Credential(principal=principal, proof="token")
            if (credential := self._session(request)) is not None:
                return credential
            if self._hook and (principal := self._hook()):
                return Credential(principal=principal, proof="hook")
            if self._config.auth == "off" and is_local(request):
                return Credential(principal=Principal(name="local", role="admin"), proof="local")
            if token is not None:
                raise Unauthorized("The bearer token is not valid.")
            return None

    def admit(self, request: Request, credential: Credential | None, *, role: Role) -> Credential:
        """Return the credential if it may do what `role` may; raises Unauthorized or Forbidden.

        A write must also pass the checks against cross-site request forgery.
        """
        with _logged(request):
            if credential is None:
                raise Unauthorized
            if not credential.principal.may(role):
                actual = credential.principal.role
                raise Forbidden(f"The role {actual!r} may not do that; it takes {role!r}.")
            self._check_write(request, credential)
            return credential

    def principal_of(self, token: str) -> Principal | None:
        """Return whom a token stands for, compared in constant time.

        Raises DatabaseUnavailable when that cannot be known now.
        """
        expected = self._config.admin_token
        if expected and hmac.compare_digest(_digest(token), _digest(expected)):
            return Principal(name=ADMIN, role="admin")
        return _principal(self._tokens.with_secret(token))

    def issue_ticket(self, credential: Credential, *, job_id: str) -> str:
        """Return a ticket, which stands for a minute for a credential where one job is watched.

        An EventSource can send no header. Raises Forbidden where nothing is set to sign it with.
        """
        serializer = self._serializer("ticket")
        if serializer is None:
            raise Forbidden("Tickets need a SECRET_KEY, and none is set.")
        principal = credential.principal
        holder = {"principal": asdict(principal), "proof": credential.proof}
        return str(serializer.dumps({"job": job_id, **holder, **self._opened_by(principal)}))

    def redeem(self, request: Request, *, ticket: str, job_id: str) -> Credential:
        """Return whose ticket this is; raises Unauthorized for a false, old or other job's one.

        A ticket ends with the token that it was made with.
        """
        with _logged(request):
            serializer = self._serializer("ticket")
            try:
                if serializer is None:
                    raise BadSignature("nothing is signed here")
                values = serializer.loads(ticket, max_age=TICKET_SECONDS)
            except BadSignature:
                raise Unauthorized("The ticket is not valid, or too old.") from None
            if values["job"] != job_id:
                raise Unauthorized("The ticket is for another job.")
            principal: Principal | None = Principal(**values["principal"])
            if values["proof"] in ("token", "session"):
                principal = self._opener(values)
            if principal is None:
                raise Unauthorized("The token that this ticket was made with is not valid.")
        return Credential(principal=principal, proof=values["proof"])

    def stands(self, credential: Credential) -> bool:
        """Tell whether a credential of a request that lasts still holds: whether its token does.

        It does not while that cannot be known. Needs an app context.
        """
        name = credential.principal.name
        if credential.proof not in ("token", "session") or name == ADMIN:
            return True
        try:
            return self._tokens.named(name) is not None
        except DatabaseUnavailable:
            return False

    def sign_in(self, request: Request, *, token: str) -> str:
        """Return a new session cookie's value; raises Unauthorized, or Forbidden cross-site."""
        with _logged(request):
            if is_cross_site(request, origins=self._config.cors_origins):
                raise Forbidden("This sign-in came from another site.")
            principal = self.principal_of(token)
            serializer = self._serializer("session")
            if principal is None or serializer is None:
                raise Unauthorized("This token is not valid.")
        csrf = secrets.token_urlsafe(16)
        return str(serializer.dumps({"csrf": csrf, **self._opened_by(principal)}))

    @property
    def can_sign_in(self) -> bool:
        """Tell whether any token may exist to sign in with, and something to sign with."""
        return bool(self.signing_key()) and (
            self._config.admin_token is not None or self._tokens.are_possible
        )

    def _session(self, request: Request) -> Credential | None:
        cookie = request.cookies.get(SESSION_COOKIE)
        serializer = self._serializer("session")
        if cookie is None or serializer is None:
            return None
        try:
            values = serializer.loads(cookie, max_age=SESSION_SECONDS)
        except BadSignature:
            return None
        principal = self._opener(values)
        if principal is None:
            return None
        return Credential(principal=principal, proof="session", csrf=values["csrf"])

    def _opened_by(self, principal: Principal) -> dict[str, str]:
        """Return what a session or ticket says of the token that it was made with."""
        fingerprint = self._fingerprint() if principal.name == ADMIN else ""
        return {"name": principal.name, "token": fingerprint}

    def _opener(self, values: dict[str, str]) -> Principal | None:
        """Return who made a session or ticket; it ends with the token that it was made with."""
        if values["name"] != ADMIN:
            return _principal(self._tokens.named(values["name"]))
        if not hmac.compare_digest(values["token"], self._fingerprint()):
            return None
        return Principal(name=ADMIN, role="admin")

    def signing_key(self) -> bytes:
        """Return what sessions, tickets and cursors are signed with; empty where nothing is set."""
        key = self._config.secret_key or self._app_secret()
        if key:
            return key.encode() if isinstance(key, str) else key
        return _stretched(self._config.admin_token) if self._config.admin_token else b""

    def _serializer(self, purpose: str) -> URLSafeTimedSerializer | None:
        secret = self.signing_key()
        return URLSafeTimedSerializer(secret, salt=f"jobserver.{purpose}") if secret else None

    def _fingerprint(self) -> str:
        # A changed admin token signs everybody out who came in by it.
        token = f"session {self._config.admin_token}".encode()
        return hmac.new(self.signing_key(), token, "sha256").hexdigest()[:16]

    def _check_write(self, request: Request, credential: Credential) -> None:
        if request.method in _SAFE_METHODS or credential.proof == "token":
            return
        if is_cross_site(request, origins=self._config.cors_origins):
            raise Forbidden("This write came from another site.")
        if credential.csrf is None:
            return
        sent = request.headers.get(CSRF_HEADER) or request.form.get(CSRF_FIELD, "")
        if not hmac.compare_digest(_digest(sent), _digest(credential.csrf)):
            raise Forbidden(
                f"A signed-in write needs the session's CSRF token: header {CSRF_HEADER!r} "
                f"or form field {CSRF_FIELD!r}."
            )


def is_cross_site(request: Request, *, origins: Iterable[str] = ()) -> bool:
    """Tell whether a browser sent this request for a page of another site (Fetch Metadata, Origin).

    Hosts are compared, not schemes: behind a TLS proxy the app may see plain HTTP.
    """
    site = request.headers.get("Sec-Fetch-Site")
    if site in ("same-origin", "none"):
        return False
    origin = request.headers.get("Origin")
    if origin is None:
        return site is not None
    if origin in origins:
        return False
    return site is not None or origin.partition("://")[2] != request.host


def is_local(request: Request) -> bool:
    """Tell whether a request was made on this machine, by its socket peer and no proxy's word.

    The Host must be local too, or a name rebound to 127.0.0.1 would let any web page in.
    """
    if any(name.startswith(_FORWARDED) for name, _ in request.headers):
        return False
    before_proxy_fix = request.environ.get("werkzeug.proxy_fix.orig", request.environ)
    host = _PORT.sub("", request.host).strip("[]")
    return _is_loopback(before_proxy_fix.get("REMOTE_ADDR", "")) and (
        host == "localhost" or host.endswith(".localhost") or _is_loopback(host)
    )


def safe_target(target: str | None, *, default: str) -> str:
    """Return where to go after sign-in: a path of this site, never another one."""
    if not target or not target.startswith("/") or target.startswith(("//", "/\\")):
        return default
    return default if any(ord(character) < 32 for character in target) else target


@contextmanager
def _logged(request: Request) -> Iterator[None]:
    """Log a refusal, without the token, and let it go on."""
    try:
        yield
    except (Unauthorized, Forbidden) as error:
        asked = f"{request.method} {request.path!r}"
        logger.warning("refused %s from %s: %s", asked, request.remote_addr, error)
        raise


@cache
def _stretched(token: str) -> bytes:
    """Return a key made of a token, slowly: who is given a signature could else guess at it."""
    return hashlib.scrypt(token.encode(), salt=b"jobserver.signing", n=2**14, r=8, p=1)


def _principal(token: Token | None) -> Principal | None:
    # A role that a newer version knows is none here.
    if token is None or token.role not in _RANK:
        return None
    return Principal(name=token.name, role=token.role, owner=token.owner)


def _bearer_token(request: Request) -> str | None:
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
