"""Watching jobs: whoever waits for a change of a job is told of it by one subscriber."""

from jobserver.live.lookout import Lookout
from jobserver.live.watch import News, Watch

__all__ = ["Lookout", "News", "Watch"]
