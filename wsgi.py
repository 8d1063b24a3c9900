"""The application for WSGI servers, `flask` and workers: `wsgi:app`."""

from dotenv import load_dotenv

# Before anything imports rq, which reads RQ_KEY_PREFIX at its import; the real environment wins.
load_dotenv(".env")

from jobs.application import create_app  # noqa: E402

app = create_app()
