"""Orders: from confirmation to completion."""
