"""The only place that talks to Redis: keys, scripts, and the verbs over them."""

from jobserver.broker.broker import Broker, Recovery
from jobserver.broker.connection import Connection, connect
from jobserver.broker.exchange import Claim, Ending, Share
from jobserver.broker.job import Job
from jobserver.broker.queue_state import Pause, QueueState
from jobserver.broker.request import Answer, EnqueueRequest
from jobserver.broker.tail import Event

__all__ = [
    "Answer",
    "Broker",
    "Claim",
    "Connection",
    "Ending",
    "EnqueueRequest",
    "Event",
    "Job",
    "Pause",
    "QueueState",
    "Recovery",
    "Share",
    "connect",
]
