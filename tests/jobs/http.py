"""Asking the API in tests."""

TOKEN = "the-token-of-the-tests"


def bearer(token: str) -> str:
    """The Authorization header of a token."""
    return f"Bearer {token}"
