"""Sellers: fetch and analyse what each account of a user sold."""
