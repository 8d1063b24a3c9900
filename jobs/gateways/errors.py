"""What can go wrong outside; that there were too many requests is the engine's RateLimited."""

from jobserver.errors import JobServerError


class VendorUnavailable(JobServerError):
    """The other side can't answer now: worth another try."""

    status = 503


class VendorRefused(JobServerError):
    """The other side won't answer this: trying again changes nothing."""

    status = 502
