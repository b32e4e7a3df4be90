"""Which peer an outbound entry wants: a name, and any of its pins where it has some."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar.tls.failure import TlsCode, TlsError

if TYPE_CHECKING:
    from sidecar.identity.pattern import IdPattern
    from sidecar.identity.peer import Peer
    from sidecar.identity.pins import Pin
    from sidecar.tls.contexts import Expectation


def expect_peer(pattern: IdPattern, pins: frozenset[Pin] = frozenset()) -> Expectation:
    """Returns the check for ``client_context``. Pins come in addition to chain and name; without any, names suffice.

    A pin is that of the leaf: one that matches an authority on the path says nothing about this peer. The check raises
    TlsError with PEER_NAME or PEER_PIN.
    """

    def check(peer: Peer) -> None:
        if not pattern.matches(peer.id):
            raise TlsError(
                TlsCode.PEER_NAME,
                f"the peer is {peer.id}, which {pattern} does not name",
                hint="check `connect` and `peer` of this outbound entry",
            )
        if pins and peer.pin not in pins:
            raise TlsError(
                TlsCode.PEER_PIN,
                f"the key of {peer.id} has the pin {peer.pin}, which is not among the {len(pins)} that are allowed",
                hint="add the new pin to this outbound entry before its peer changes keys",
            )

    return check
