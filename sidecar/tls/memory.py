"""What one context remembers: the peers it has proven, and the sessions it can resume.

Both die with their context, so nothing is carried across a change of identity, trust or listener.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import TYPE_CHECKING

from sidecar.tls.failure import TlsCode, TlsError

if TYPE_CHECKING:
    import ssl
    from collections.abc import Hashable

    from sidecar.identity.peer import Peer

#: Distinct leaf certificates that one context remembers before its owner should move on to a successor.
PEERS = 4096
#: Unused sessions kept for one upstream address, and addresses that sessions are kept for.
SESSIONS_PER_KEY = 16
SESSION_KEYS = 64


class PeerMemory:
    """Proven peers, by what is enough to recognise them.

    By the SHA-256 of their leaf, for resumed sessions: those bring the leaf but no chain (RFC 8446 2.2: no Certificate
    message is sent), so the chain's verdict has to be known already. And by the SHA-256 of the whole chain, for full
    handshakes: ``identity.verify`` is a function of chain, bundles, role and time, the middle two belong to the context,
    and time only matters by the path's validity. The same bytes within that validity are the same verdict, which saves
    0.3 ms; OpenSSL proves possession of the key each time.

    ``full`` asks the owner to use a successor context for new connections: their old tickets mean nothing there, and
    they fall back to a full handshake. Handshakes that are under way meanwhile may still add entries, up to twice
    ``limit``; from there on nothing is remembered and such a session is refused later.
    """

    __slots__ = ("_by_chain", "_by_leaf", "_limit")

    def __init__(self, limit: int = PEERS) -> None:
        self._limit = limit
        self._by_leaf: dict[bytes, Peer] = {}
        self._by_chain: dict[bytes, Peer] = {}

    def __len__(self) -> int:
        return len(self._by_leaf)

    @property
    def full(self) -> bool:
        """Says whether new connections should go to a successor."""
        return len(self._by_leaf) >= self._limit

    def remember(self, peer: Peer, chain_sha256: bytes) -> None:
        """Keeps a peer that ``identity.verify`` accepted.

        The same leaf may come with chains that end at different times; each was proven, so the longest one counts. A
        caller can dress one leaf in any number of chains: those are only a shortcut, and start afresh when they fill up.
        """
        if len(self._by_chain) >= self._limit:
            self._by_chain.clear()
        self._by_chain[chain_sha256] = peer
        known = self._by_leaf.get(peer.leaf_sha256)
        if known is None and len(self._by_leaf) >= 2 * self._limit:
            return
        if known is None or known.not_after <= peer.not_after:
            self._by_leaf[peer.leaf_sha256] = peer

    def recognise(self, chain_sha256: bytes, now: float) -> Peer | None:
        """Returns the peer that exactly this chain was proven to be, while the path's validity lasts; else None."""
        peer = self._by_chain.get(chain_sha256)
        return peer if peer is not None and peer.not_before <= now <= peer.not_after else None

    def recall(self, leaf_sha256: bytes, now: float) -> Peer:
        """Returns the peer that a resumed session belongs to.

        Raises TlsError: SESSION_UNKNOWN, or SESSION_EXPIRED where ``now`` lies outside the proven path's validity.
        """
        peer = self._by_leaf.get(leaf_sha256)
        if peer is None:
            raise TlsError(TlsCode.SESSION_UNKNOWN, "the resumed session belongs to no peer that was proven here")
        if not peer.not_before <= now <= peer.not_after:
            raise TlsError(TlsCode.SESSION_EXPIRED, f"the resumed session's peer {peer.id} is outside its validity")
        return peer


class SessionStore:
    """Sessions that a client may resume, by any key (an address with its server name); each is given out once.

    Single use keeps two connections from being linkable by a ticket (RFC 8446 C.4).
    """

    __slots__ = ("_keys", "_per_key", "_sessions")

    def __init__(self, keys: int = SESSION_KEYS, per_key: int = SESSIONS_PER_KEY) -> None:
        self._keys = keys
        self._per_key = per_key
        self._sessions: OrderedDict[Hashable, deque[ssl.SSLSession]] = OrderedDict()

    def __len__(self) -> int:
        return sum(map(len, self._sessions.values()))

    def put(self, key: Hashable, session: ssl.SSLSession | None) -> None:
        """Keeps a session; the oldest of its key, or of the key that was used least recently, makes room. None is nothing.

        A store for no keys keeps none.
        """
        if session is None or not self._keys:
            return
        self._sessions.setdefault(key, deque(maxlen=self._per_key)).append(session)
        self._sessions.move_to_end(key)
        if len(self._sessions) > self._keys:
            self._sessions.popitem(last=False)

    def take(self, key: Hashable) -> ssl.SSLSession | None:
        """Removes and returns the newest session of a key, or None."""
        sessions = self._sessions.get(key)
        if sessions is None:
            return None
        session = sessions.pop()
        if not sessions:
            del self._sessions[key]
        return session
