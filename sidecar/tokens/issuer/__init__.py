"""How issuers are reached: one small client for tokens, metadata, key sets and revocation, off the hot path."""
