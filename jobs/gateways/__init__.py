"""The outside world: a small HTTP client for each vendor."""
