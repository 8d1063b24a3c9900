"""What can go wrong between shops that follow shops."""

from jobserver.errors import JobServerError, NotFound


class ShopNotFound(NotFound):
    """No shop with this id is known."""


class FollowNotFound(NotFound):
    """No follow with this id is known."""


class FollowExists(JobServerError):
    """The shop follows that shop already."""

    status = 409


class NothingToSync(JobServerError):
    """The follow copies no products."""

    status = 409


class CatalogueUnreadable(JobServerError):
    """The file is no product CSV of Shopify's."""

    status = 422
