"""Integrations: what other platforms send, and what is fetched from them."""
