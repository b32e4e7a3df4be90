"""All peers, in the order of their columns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from bench.peers.envoy import Envoy
from bench.peers.ghostunnel import Ghostunnel
from bench.peers.haproxy import Haproxy
from bench.peers.nginx import Nginx
from bench.peers.sidecar import Sidecar
from bench.peers.stunnel import Stunnel

if TYPE_CHECKING:
    from bench.peers.peer import Peer

#: It runs in every row.
OURSELVES: Final = "sidecar"

PEERS: Final[dict[str, Peer]] = {
    peer.name: peer for peer in (Sidecar(), Nginx(), Envoy(), Haproxy(), Stunnel(), Ghostunnel())
}
