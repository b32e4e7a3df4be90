"""Bounds of the signer service."""

from __future__ import annotations

from dataclasses import dataclass

from sidecar.keys.serial import SIGN_SECONDS


@dataclass(frozen=True, slots=True)
class SignerLimits:
    """Each with what happens beyond it. Times are seconds."""

    #: For one signature, from its request on, waiting for the device included: the reply is TIMEOUT.
    sign: float = SIGN_SECONDS
    #: Open at once, a few for each proxy of a machine: the one that has been idle for longest is closed for a new one.
    connections: int = 64
    #: For a connection without a request: closed. A client opens another when it needs one.
    idle: float = 60.0
    #: From a request's first byte to its last: closed. A client sends one at once.
    head: float = 5.0
    #: Calls into the device at once. One is enough for a TPM; the others find out that it hangs, and say so at once.
    threads: int = 4
    #: Requests that wait for a thread, as many as there are connections: the reply is FULL. More come only from clients
    #: that ask again and again while the device hangs.
    waiting: int = 64
    #: For the device to be let go of at the end: then it is left to itself.
    close: float = 1.0
