"""The application's settings: the engine's, and a few of its own."""

from dataclasses import dataclass
from typing import cast

from jobserver import Config, current
from jobserver.setting import number, setting, text_like, whole_number

HTTP_URL = text_like(r"https?://[^\s/?#@]+(/[^\s?#]*)?", accepts="http:// or https:// and a host")
TOKEN = text_like(r"[!-~]+", accepts="visible ASCII characters, no spaces")


@dataclass(frozen=True, kw_only=True)
class Settings(Config):
    """All settings of this application; see Config for how they are read."""

    resync_hours: float = setting(
        "RESYNC_HOURS",
        kind=number(0.001),
        help="Hours between two syncs of every active resell follow.",
        default=6.0,
        shown="6",
    )
    sync_batch_pause: float = setting(
        "SYNC_BATCH_PAUSE",
        kind=number(0),
        help="Seconds that a product sync sleeps after each batch; for tests.",
        default=0.0,
        shown="0",
    )
    directory_url: str | None = setting(
        "DIRECTORY_URL",
        kind=HTTP_URL,
        help="Where the user directory is; `make run` has one of its own, in the sandbox.",
        default=None,
        shown="instance/sandbox-url",
        file="sandbox-url",
    )
    directory_token: str = setting(
        "DIRECTORY_TOKEN",
        kind=TOKEN,
        help="Bearer token for the user directory.",
        default="sandbox",
        secret=True,
    )
    directory_timeout: float = setting(
        "DIRECTORY_TIMEOUT",
        kind=number(0.1),
        help="Seconds to wait for the user directory, for a connection and for each answer.",
        default=10.0,
        shown="10",
    )
    user_sync_minutes: float = setting(
        "USER_SYNC_MINUTES",
        kind=number(0.1),
        help="Minutes between two incremental syncs of users.",
        default=20.0,
        shown="20",
    )
    user_sync_batch: int = setting(
        "USER_SYNC_BATCH",
        kind=whole_number(1, at_most=100),
        help="Users that a sync reads and writes at a time.",
        default=100,
    )


def current_settings() -> Settings:
    """Return the settings of the current application."""
    return cast(Settings, current.server().config)
