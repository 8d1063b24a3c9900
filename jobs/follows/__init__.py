"""Shops that follow shops, and the copying of one's catalogue to the other."""
