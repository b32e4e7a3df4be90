"""Who is at the other end: SPIFFE IDs, trust bundles, pins, and the verification of a peer's chain.

Pure: no IO, no event loop, no clock (time is an argument); randomness only in ``issue``, which makes certificates.
Import from the modules; this package re-exports nothing, so that a reader sees where a name lives.
"""
