"""Finding the records that a caller names by id."""

from sqlalchemy.orm import Session

from jobs.follows.errors import FollowNotFound, ShopNotFound
from jobs.records import Follow, Shop, db
from jobs.records.columns import LARGEST_INTEGER
from jobserver import Principal


def find_follow(
    follow_id: int, *, session: Session | None = None, seen_by: Principal | None = None
) -> Follow:
    """Return a follow; raises FollowNotFound, also for one that `seen_by` may not see."""
    # PostgreSQL refuses to compare a column with a number that it can't hold.
    is_id = 0 < follow_id <= LARGEST_INTEGER
    follow = (session or db.session()).get(Follow, follow_id) if is_id else None
    if follow is None or (seen_by and not seen_by.sees(follow.owner)):
        raise FollowNotFound(f"No follow has the id {follow_id!r}.")
    return follow


def find_shop(shop_id: int, *, session: Session | None = None) -> Shop:
    """Return a shop; raises ShopNotFound."""
    is_id = 0 < shop_id <= LARGEST_INTEGER
    shop = (session or db.session()).get(Shop, shop_id) if is_id else None
    if shop is None:
        raise ShopNotFound(f"No shop has the id {shop_id!r}.")
    return shop
