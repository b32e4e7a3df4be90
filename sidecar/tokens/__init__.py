"""Short-lived tokens: what arrives is validated (pure), what leaves is obtained, kept and refreshed (`sources`, `issuer`)."""
