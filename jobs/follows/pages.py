"""The home page: make a follow, and watch its products arrive."""

from flask import Blueprint, render_template
from sqlalchemy import select

from jobs.records import FollowMode, Shop, db
from jobs.settings import current_settings
from jobserver import JobServer

MOST_SHOPS = 1000

home = Blueprint("home", __name__)


@home.get("/")
def show() -> str:
    """Show the form and the list of follows; static/home.js brings them to life."""
    shops = db.session.scalars(select(Shop).order_by(Shop.id).limit(MOST_SHOPS)).all()
    return render_template(
        "home.html",
        shops=shops,
        modes=list(FollowMode),
        poll_interval=current_settings().poll_interval,
        csrf_token=JobServer.csrf_token(),
    )
