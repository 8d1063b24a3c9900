"""Every setting of a process, read once from the environment; nothing else reads `os.environ`."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import Field, dataclass, fields
from pathlib import Path
from typing import Any, Literal, Self
from urllib.parse import quote, unquote, urlsplit

from jobserver.errors import ConfigInvalid
from jobserver.setting import (
    Kind,
    Setting,
    choice,
    number,
    parsed,
    setting,
    text_like,
    whole_number,
)

_REDIS_PARTS = ("REDIS_HOST", "REDIS_PORT", "REDIS_USERNAME", "REDIS_PASSWORD", "REDIS_DB")


def _redis_url(text: str) -> str:
    url = urlsplit(text)
    # .port raises ValueError where it is no number; .hostname is None where nothing is named.
    is_tcp = url.scheme in ("redis", "rediss") and url.hostname is not None and url.port != 0
    is_tcp = is_tcp and re.fullmatch(r"(/\d*)?", url.path) is not None
    if not is_tcp and not (url.scheme == "unix" and url.path.startswith("/")):
        raise ValueError(text)
    return text


def _database_url(text: str) -> str:
    # SQLAlchemy would take the bare names for psycopg2; what is installed is psycopg 3.
    text = re.sub(r"^postgres(ql)?://", "postgresql+psycopg://", text)
    if not re.match(r"(sqlite|postgresql)(\+[a-z0-9]+)?://", text):
        raise ValueError(text)
    return text


def _origins(text: str) -> tuple[str, ...]:
    origins = tuple(part.strip() for part in text.split(",") if part.strip())
    for origin in origins:
        if origin != "*" and not re.fullmatch(r"https?://[^/\s,?#@]+", origin):
            raise ValueError(origin)
    return origins


def _open_routes(text: str) -> frozenset[str]:
    words = frozenset(part.strip() for part in text.lower().split(",") if part.strip())
    if words - {"metrics", "docs"}:
        raise ValueError(text)
    return words


def _rate_limit(text: str) -> tuple[int, int] | None:
    if text.lower() == "off":
        return None
    requests, _, seconds = text.partition("/")
    if not 1 <= int(requests) <= 10**6 or not 1 <= int(seconds) <= 86400:
        raise ValueError(text)
    return int(requests), int(seconds)


REDIS_URL = Kind("redis://, rediss:// or unix:// and where the server is", _redis_url)
DATABASE_URL = Kind("sqlite:/// and a path, or postgresql:// and where it is", _database_url)
ORIGINS = Kind("origins like https://shop.example, separated by commas, or *", _origins)
OPEN_ROUTES = Kind("metrics or docs, or both, separated by a comma", _open_routes)
RATE_LIMIT = Kind("off, or requests/seconds like 100/60", _rate_limit)
KEY_PREFIX = text_like(r"[A-Za-z0-9_.:{}-]+", accepts="letters, digits and _ . : - { }")
SECRET = text_like(r"[!-~]{8,}", accepts="at least 8 visible ASCII characters, no spaces")
PATH = Kind("a path", lambda text: Path(text).absolute())

# What QUEUE_<QUEUE>_<SETTING> may set; ages and timeouts are in seconds.
QUEUE_SETTINGS = {
    "CONCURRENCY": whole_number(1),
    "GLOBAL_CONCURRENCY": whole_number(1),
    "ATTEMPTS": whole_number(1, at_most=2**31 - 1),
    "TIMEOUT": whole_number(1, at_most=2**31 - 1),
    "COMPLETED_COUNT": whole_number(0),
    "COMPLETED_AGE": number(1),
    "FAILED_COUNT": whole_number(0),
    "FAILED_AGE": number(1),
}
_QUEUE_VARIABLE = re.compile(
    # The queue's name is as short as it can be, so that GLOBAL_CONCURRENCY is not taken apart.
    r"QUEUE_(?P<queue>[A-Z0-9]+(?:_[A-Z0-9]+)*?)_(?P<setting>" + "|".join(QUEUE_SETTINGS) + ")"
)
QUEUE_OVERRIDE = Kind("one of " + ", ".join(QUEUE_SETTINGS), str)


@dataclass(frozen=True, kw_only=True)
class Config:
    """All settings of the engine; an application adds its own in a subclass.

    Seconds are numbers, paths absolute. An empty variable counts as unset.
    """

    instance_path: Path = setting(
        "JOBSERVER_INSTANCE",
        kind=PATH,
        help="Directory of what this installation keeps: databases, secrets, the embedded server.",
        default_factory=lambda: Path("instance").absolute(),
        shown="instance",
    )
    app: str = setting(
        "JOBSERVER_APP",
        kind=text_like(r"[\w.]+(:\w+)?", accepts="module:attribute of a Flask app or its factory"),
        help="The Flask app that workers load.",
        default="wsgi:app",
    )
    redis_url: str = setting(
        "REDIS_URL",
        kind=REDIS_URL,
        help="Redis ≥ 6.2 or Valkey. Unset: built from REDIS_HOST, REDIS_PORT, REDIS_USERNAME, "
        "REDIS_PASSWORD and REDIS_DB where one is set, else the embedded server's.",
        default="redis://localhost:6379/0",
        shown="instance/redis-url",
        file="redis-url",
        repr=False,
    )
    key_prefix: str = setting(
        "RQ_KEY_PREFIX",
        kind=KEY_PREFIX,
        help="Prefix of every key; applications with different ones can share a server.",
        default="rq",
    )
    database_url: str = setting(
        "DATABASE_URL",
        kind=DATABASE_URL,
        help="SQL database of the application and of the ledger.",
        default="",
        shown="sqlite:///instance/jobserver.db",
        repr=False,
    )
    port: int = setting(
        "PORT",
        kind=whole_number(1, at_most=65535),
        help="Port of the web process.",
        default=3000,
    )
    admin_token: str | None = setting(
        "JOBSERVER_ADMIN_TOKEN",
        kind=SECRET,
        help="Bearer token and sign-in of the administrator; `make run` makes one.",
        default=None,
        shown="instance/admin-token",
        file="admin-token",
        secret=True,
    )
    secret_key: str | None = setting(
        "SECRET_KEY",
        kind=SECRET,
        help="Key that signs sessions; `make run` makes one.",
        default=None,
        shown="instance/secret-key",
        file="secret-key",
        secret=True,
    )
    auth: Literal["on", "off"] = setting(
        "JOBSERVER_AUTH",
        kind=choice("on", "off"),
        help="off lets requests of this machine in without a token.",
        default="on",
    )
    cors_origins: tuple[str, ...] = setting(
        "CORS_ORIGINS",
        kind=ORIGINS,
        help="Origins whose pages may read the API.",
        default=(),
        shown="none",
    )
    proxy_hops: int = setting(
        "PROXY_HOPS",
        kind=whole_number(0, at_most=10),
        help="Reverse proxies in front, whose X-Forwarded headers are believed.",
        default=0,
    )
    open_routes: frozenset[str] = setting(
        "OPEN_ROUTES",
        kind=OPEN_ROUTES,
        help="Routes that need no token: /metrics, and /docs with /openapi.json.",
        default=frozenset(),
        shown="none",
    )
    rate_limit: tuple[int, int] | None = setting(
        "RATE_LIMIT",
        kind=RATE_LIMIT,
        help="Requests to the API that each token or user may make in how many seconds.",
        default=None,
        shown="off",
    )
    worker_concurrency: int = setting(
        "WORKER_CONCURRENCY",
        kind=whole_number(1, at_most=1000),
        help="Jobs of thread queues that one worker runs at a time.",
        default=10,
    )
    worker_processes: int = setting(
        "WORKER_PROCESSES",
        kind=whole_number(1, at_most=1000),
        help="Child processes of one worker, for the queues that run in processes.",
        default=2,
    )
    worker_instances: int = setting(
        "WORKER_INSTANCES",
        kind=whole_number(1, at_most=100),
        help="Workers that `make run` starts.",
        default=2,
    )
    drain_seconds: float = setting(
        "DRAIN_SECONDS",
        kind=number(0),
        help="Time a stopping worker gives running jobs (`make run`: at most 6).",
        default=25.0,
        shown="25",
    )
    lease_seconds: float = setting(
        "LEASE_SECONDS",
        kind=number(1),
        help="Silence after which a worker counts as lost and its jobs run elsewhere.",
        default=15.0,
        shown="15",
    )
    events_max_mib: int = setting(
        "EVENTS_MAX_MIB",
        kind=whole_number(1),
        help="About how much Redis keeps of the events when no ledger reads them, at 256 bytes.",
        default=64,
    )
    ledger_backlog_mib: int = setting(
        "LEDGER_BACKLOG_MIB",
        kind=whole_number(1),
        help="Most that Redis keeps of events that the ledger lacks, its database being away; "
        "then nothing can be enqueued.",
        default=256,
    )
    ledger_days: float = setting(
        "LEDGER_DAYS",
        kind=number(0.01),
        help="Days after its end for which the ledger keeps a run.",
        default=90.0,
        shown="90",
    )
    ledger_runs: int = setting(
        "LEDGER_RUNS",
        kind=whole_number(1),
        help="Ended runs that the ledger keeps, about; the oldest go first.",
        default=1_000_000,
    )
    poll_interval: float = setting(
        "POLL_INTERVAL",
        kind=number(0.1),
        help="Seconds between polls that clients are told to keep.",
        default=2.0,
        shown="2",
    )
    max_waiters: int = setting(
        "MAX_WAITERS",
        kind=whole_number(0, at_most=5000),
        help="Long polls and event streams that one web process holds open; more are answered "
        "at once.",
        default=350,
    )
    log_format: Literal["json", "text"] | None = setting(
        "LOG_FORMAT",
        kind=choice("json", "text"),
        help="How log lines on stderr look.",
        default=None,
        shown="text on a terminal, else json",
    )
    log_dir: Path | None = setting(
        "LOG_DIR",
        kind=PATH,
        help="Directory of log files too, one a day for all processes, in JSON, kept for 14 days.",
        default=None,
        shown="none",
    )
    log_level: str = setting(
        "LOG_LEVEL",
        kind=choice("DEBUG", "INFO", "WARNING", "ERROR"),
        help="Least level that is logged.",
        default="INFO",
    )
    queue_overrides: Mapping[str, Mapping[str, float]] = setting(
        "QUEUE_<QUEUE>_<SETTING>",
        kind=QUEUE_OVERRIDE,
        help="A queue's own setting, as in QUEUE_PRODUCT_SYNC_TIMEOUT=300 (seconds).",
        default_factory=dict,
        shown="as declared",
    )

    def __post_init__(self) -> None:
        if not self.database_url:
            default = f"sqlite:///{self.instance_path}/jobserver.db"
            object.__setattr__(self, "database_url", default)

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> Self:
        """Read a config from `environ` (default: the process's) and the instance directory.

        Raises ConfigInvalid, one line, for the first value that is not accepted.
        """
        environ = os.environ if environ is None else environ
        instance = Path(environ.get("JOBSERVER_INSTANCE", "").strip() or "instance").absolute()
        values: dict[str, Any] = {}
        for declared, source in _settings(cls):
            name = source.variable
            text = environ.get(name, "").strip()
            if name == "REDIS_URL":
                text = redis_url_in(environ) or ""
            if not text and source.file:
                name = str(instance / source.file)
                text = _content(instance / source.file)
            if text:
                values[declared.name] = parsed(text, source.kind, name=name, secret=source.secret)
        values["queue_overrides"] = _queue_overrides(environ)
        return cls(**values)

    def secrets(self) -> tuple[str, ...]:
        """Return what no log may show: secret settings and the passwords in addresses.

        What is a default, or shorter than 8 characters, may be any word and is left out.
        """
        found: set[str] = set()
        for declared, source in _settings(type(self)):
            value = getattr(self, declared.name)
            if not isinstance(value, str) or value == declared.default:
                continue
            if source.secret:
                found.add(value)
            elif "://" in value and (password := urlsplit(value).password):
                found |= {password, unquote(password)} - {urlsplit(value).username}
        return tuple(sorted((one for one in found if len(one) >= 8), key=len, reverse=True))

    @classmethod
    def table(cls) -> str:
        """Return the settings as a Markdown table, one row each, for the README."""
        head = "| Variable | Default | Accepts | What it is |\n|---|---|---|---|\n"
        return head + "".join(
            f"| `{source.variable}` | `{source.shown}` | {source.kind.accepts} | {source.help} |\n"
            for _, source in _settings(cls)
        )


def redis_url_in(environ: Mapping[str, str]) -> str | None:
    """Return REDIS_URL, else a URL of REDIS_HOST and its like, else None: none is named."""
    url = environ.get("REDIS_URL", "").strip()
    if url:
        return url
    parts = {name: environ.get(name, "").strip() for name in _REDIS_PARTS}
    if not any(parts.values()):
        return None
    port = parsed(parts["REDIS_PORT"] or "6379", whole_number(1, at_most=65535), name="REDIS_PORT")
    db = parsed(parts["REDIS_DB"] or "0", whole_number(0), name="REDIS_DB")
    host_kind = text_like(r"[^\s/@?#]+", accepts="a host name or address")
    host = parsed(parts["REDIS_HOST"] or "localhost", host_kind, name="REDIS_HOST")
    host = f"[{host}]" if ":" in host and not host.startswith("[") else host
    user, password = (quote(parts[name], safe="") for name in ("REDIS_USERNAME", "REDIS_PASSWORD"))
    login = f"{user}:{password}@" if user or password else ""
    return f"redis://{login}{host}:{port}/{db}"


def _settings(cls: type[Config]) -> Iterator[tuple[Field[Any], Setting]]:
    for declared in fields(cls):
        if "setting" in declared.metadata:
            yield declared, declared.metadata["setting"]


def _queue_overrides(environ: Mapping[str, str]) -> dict[str, dict[str, float]]:
    overrides: dict[str, dict[str, float]] = {}
    for variable, text in sorted(environ.items()):
        found = _QUEUE_VARIABLE.fullmatch(variable)
        # Other programs have variables that begin so (QUEUE_URL); only ours name a setting.
        if not found or not text.strip():
            continue
        kind = QUEUE_SETTINGS[found["setting"]]
        queue = found["queue"].lower().replace("_", "-")
        value = parsed(text.strip(), kind, name=variable)
        overrides.setdefault(queue, {})[found["setting"].lower()] = value
    return overrides


def _content(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise ConfigInvalid(f"{path}: it cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise ConfigInvalid(f"{path}: it cannot be read (it is no UTF-8 text)") from None
