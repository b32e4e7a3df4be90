"""A proven identity: what :func:`sidecar.identity.verify.verify` returns.

Nothing else makes one outside of tests, but for `sidecar.policy.explain`, which only supposes one and hands it to nobody.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sidecar.identity.pins import Pin
    from sidecar.identity.spiffe import SpiffeId


class Role(StrEnum):
    """The role in which a certificate was presented."""

    CLIENT = "client"
    SERVER = "server"


@dataclass(frozen=True, slots=True)
class Peer:
    """The other end of a TLS connection, after its chain was verified.

    ``serial`` is lower-case hex without a prefix. ``leaf_sha256`` is the digest of the leaf's DER. Times are seconds
    since the epoch: ``not_after`` is the earliest and ``not_before`` the latest on the path that was found, the
    authority included, so the identity is proven only between the two.
    """

    id: SpiffeId
    pin: Pin
    serial: str
    leaf_sha256: bytes
    not_after: float
    not_before: float
