"""Groups of `flask` commands of the application's own."""

from typing import Any

import click
from flask.cli import AppGroup

from jobserver.errors import JobServerError


class Commands(AppGroup):
    """A group whose commands end with a one-line message, not with a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; turns JobServerError and OSError into exit code 1 and a message."""
        try:
            return super().invoke(ctx)
        except (JobServerError, OSError) as error:
            raise click.ClickException(str(error)) from error
