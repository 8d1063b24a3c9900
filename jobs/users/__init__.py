"""User sync: keep the users of the application as their source has them."""
