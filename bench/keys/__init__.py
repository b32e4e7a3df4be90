"""Where the accepting sidecar has its private key: one file a kind, and one table of them."""
