"""Load generators: wrk, and small programs of our own for what it cannot do."""
