"""Our own private keys: where they are, and what can use them."""
