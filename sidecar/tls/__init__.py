"""Mutual TLS 1.3 without a socket: contexts, the connection machine, and every failure as an enum value.

Engine ring: bytes in, bytes out. Import from the modules; this package re-exports nothing.
"""
