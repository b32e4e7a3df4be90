"""Tokens that requests go with: one file a kind of issuer, and one table of them."""
