"""Who gives the commands of `flask jobs`, and the record of what they did."""

from __future__ import annotations

import getpass
import os
from contextlib import AbstractContextManager

from jobserver import current
from jobserver.ledger import Action, recorded


def operator_action(action: str, *, target: str) -> AbstractContextManager[Action]:
    """Record what is done inside as an action of this shell's user, and what came of it."""
    entry = Action(principal=f"shell:{_user()}", role=None, action=action, target=target)
    return recorded(current.server().db, entry)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have a number only
        return str(os.getuid())
