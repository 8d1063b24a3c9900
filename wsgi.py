"""The application for WSGI servers, `flask` and workers: `wsgi:app`."""

from dotenv import load_dotenv

# Before anything imports rq, which reads RQ_KEY_PREFIX at its import; the real environment wins.
load_dotenv(".env")

from jobs.application import create_app  # noqa: E402
from jobserver.errors import ConfigInvalid  # noqa: E402

try:
    app = create_app()
except ConfigInvalid as error:
    # One line, where gunicorn, `flask` and `rq` would print a traceback.
    raise SystemExit(f"jobserver: {error}") from None
