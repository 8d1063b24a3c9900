"""The engine's own tests use its test kit."""

pytest_plugins = ["jobserver.testing"]
