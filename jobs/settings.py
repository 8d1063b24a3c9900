"""The application's settings: the engine's, and a few of its own."""

from dataclasses import dataclass
from typing import cast

from jobserver import Config, current
from jobserver.setting import number, setting


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


def current_settings() -> Settings:
    """Return the settings of the current application."""
    return cast(Settings, current.server().config)
