"""The engine's own tests use its test kit."""

from hypothesis import settings

pytest_plugins = ["jobserver.testing"]

# How long one example takes says more about the machine than about the code.
settings.register_profile("jobserver", deadline=None)
settings.load_profile("jobserver")
