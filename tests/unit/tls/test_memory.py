"""What a context remembers, and what it forgets."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sidecar.identity.peer import Peer
from sidecar.tls.failure import TlsCode, TlsError
from sidecar.tls.memory import SESSION_KEYS, SESSIONS_PER_KEY, PeerMemory, SessionStore
from tests.support.tls import PLANNER

NOW = 1000.0
PEER = Peer(PLANNER.id, PLANNER.pin, "01", b"leaf", not_after=NOW + 10, not_before=NOW - 10)


def numbered(number: int) -> Peer:
    return replace(PEER, leaf_sha256=str(number).encode())


def code_of_recall(memory: PeerMemory, leaf: bytes, now: float) -> str:
    with pytest.raises(TlsError) as caught:
        memory.recall(leaf, now)
    return str(caught.value.code)


class TestPeerMemory:
    def test_a_remembered_peer_is_recalled_while_its_path_is_valid(self) -> None:
        memory = PeerMemory()
        memory.remember(PEER, b"chain")
        for now in (PEER.not_before, NOW, PEER.not_after):
            assert memory.recall(b"leaf", now) is PEER
            assert memory.recognise(b"chain", now) is PEER

    @pytest.mark.parametrize("now", [PEER.not_before - 1, PEER.not_after + 1])
    def test_outside_of_it_a_resumed_session_is_refused_and_a_chain_verified_anew(self, now: float) -> None:
        memory = PeerMemory()
        memory.remember(PEER, b"chain")
        assert code_of_recall(memory, b"leaf", now) == TlsCode.SESSION_EXPIRED
        assert memory.recognise(b"chain", now) is None

    def test_a_stranger_is_unknown(self) -> None:
        memory = PeerMemory()
        assert code_of_recall(memory, b"leaf", NOW) == TlsCode.SESSION_UNKNOWN
        assert memory.recognise(b"chain", NOW) is None

    def test_of_two_paths_for_one_leaf_the_longer_one_counts_in_whatever_order(self) -> None:
        longer = replace(PEER, not_after=NOW + 100)
        for first, second in ((PEER, longer), (longer, PEER)):
            memory = PeerMemory()
            memory.remember(first, b"one")
            memory.remember(second, b"two")
            assert memory.recall(b"leaf", NOW) is longer
            assert len(memory) == 1

    def test_it_asks_for_a_successor_at_its_limit_and_stops_at_twice_that(self) -> None:
        memory = PeerMemory(limit=2)
        fullness = []
        for number in range(6):
            fullness.append(memory.full)
            memory.remember(numbered(number), b"chain")
        assert fullness == [False, False, True, True, True, True]
        assert len(memory) == 4
        assert memory.recall(b"3", NOW)
        assert code_of_recall(memory, b"4", NOW) == TlsCode.SESSION_UNKNOWN

    def test_one_leaf_in_many_chains_stays_bounded_and_known(self) -> None:
        memory = PeerMemory(limit=2)
        for number in range(100):
            memory.remember(PEER, str(number).encode())
            assert len(memory._by_chain) <= 2
        assert not memory.full
        assert memory.recall(b"leaf", NOW) is PEER


class TestSessionStore:
    """Sessions are only passed through, so that any object stands for one."""

    def test_each_is_given_out_once_the_newest_first(self) -> None:
        store = SessionStore()
        store.put("a", "old")  # type: ignore[arg-type]  # see above
        store.put("a", "new")  # type: ignore[arg-type]  # see above
        store.put("a", None)
        assert [store.take("a") for _ in range(3)] == ["new", "old", None]
        assert len(store) == 0
        assert store._sessions == {}

    def test_addresses_do_not_share(self) -> None:
        store = SessionStore()
        store.put(("10.0.0.1", 8443, "tools"), "session")  # type: ignore[arg-type]  # see above
        assert store.take(("10.0.0.2", 8443, "tools")) is None

    def test_it_is_bounded_by_address_and_by_addresses(self) -> None:
        store = SessionStore()
        for address in range(SESSION_KEYS + 5):
            for number in range(SESSIONS_PER_KEY + 5):
                store.put(address, f"{address}/{number}")  # type: ignore[arg-type]  # see above
        assert len(store) == SESSION_KEYS * SESSIONS_PER_KEY
        assert store.take(0) is None
        assert store.take(SESSION_KEYS + 4) == f"{SESSION_KEYS + 4}/{SESSIONS_PER_KEY + 4}"
