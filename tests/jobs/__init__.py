"""The application's tests."""
