"""The signer service: lets other processes use a key without having it, and writes down each use."""
