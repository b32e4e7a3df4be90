"""Resumption: who gets back in without a certificate, and where a ticket is worth nothing."""

from __future__ import annotations

import _ssl
import ctypes
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from sidecar.identity.pattern import IdPattern
from sidecar.tls import contexts
from sidecar.tls.engine import State, TlsEngine
from sidecar.tls.expectation import expect_peer
from sidecar.tls.failure import TlsCode, TlsError
from sidecar.tls.memory import PeerMemory
from tests.support.ca import HOUR, Ca
from tests.support.tls import (
    CA,
    INTERMEDIATE,
    NOW,
    PLANNER,
    TOOLS,
    Foreign,
    Ours,
    connected,
    converse,
    foreign_context,
    planner_context,
    tools_context,
)

if TYPE_CHECKING:
    from sidecar.identity.peer import Peer

whole_and_byte_by_byte = pytest.mark.parametrize("chunk", [None, 1], ids=["whole", "byte-by-byte"])


@whole_and_byte_by_byte
def test_a_session_is_resumed_by_both(chunk: int | None) -> None:
    client_context, server_context = planner_context(), tools_context()
    first, served = connected(client_context, server_context)
    session = first.engine.session()
    assert session is not None
    again, served_again = connected(client_context, server_context, session=session, chunk=chunk)
    assert (again.engine.resumed, served_again.engine.resumed) == (True, True)
    assert again.engine.peer == first.engine.peer
    assert served_again.engine.peer == served.engine.peer
    assert served_again.engine.server_name_received == "tools.internal"
    again.write(b"ping")
    served_again.write(b"pong")
    converse(again, served_again)
    assert (again.plain, served_again.plain) == (b"pong", b"ping")


def test_a_server_that_never_resumes_gives_no_ticket_and_takes_none() -> None:
    client_context, willing = planner_context(), tools_context()
    session = connected(client_context, willing)[0].engine.session()
    assert session is not None
    for offered in (None, session):
        client, server = connected(client_context, tools_context(resumption=False), session=offered)
        assert (client.engine.resumed, server.engine.resumed) == (False, False)
        server.write(b"data, behind which a ticket would come")
        converse(client, server)
        assert client.engine.session() is None


def test_a_client_that_never_resumes_keeps_no_session() -> None:
    context = planner_context(resumption=False)
    client, _ = connected(context, tools_context())
    session = client.engine.session()
    assert session is not None
    context.sessions.put("tools", session)
    assert context.sessions.take("tools") is None
    assert len(context.sessions) == 0


def test_each_connection_gives_one_new_session() -> None:
    client_context, server_context = planner_context(), tools_context()
    session, seen = None, set()
    for _ in range(4):
        client, server = connected(client_context, server_context, session=session)
        session = client.engine.session()
        assert session is not None
        seen.add(session.id)
        assert client.engine.session() is None, "once"
        assert server.engine.session() is None, "a server has none to give"
    assert len(seen) == 4


def test_the_session_that_was_offered_is_not_given_again() -> None:
    """The new ticket has not arrived yet; the old one is used up (RFC 8446 C.4)."""
    client_context, server_context = planner_context(), tools_context()
    session = connected(client_context, server_context)[0].engine.session()
    client, server = Ours(TlsEngine(client_context, session=session)), Ours(TlsEngine(server_context))
    client.turn()
    server.receive(client.to_send())
    server.turn()
    client.receive(server.to_send())
    client.turn()
    assert client.open
    assert client.engine.resumed
    assert client.engine.session() is None
    converse(client, server)
    assert client.engine.session() is not None


def test_sessions_are_kept_with_their_context() -> None:
    client_context, server_context = planner_context(), tools_context()
    client, _ = connected(client_context, server_context)
    client_context.sessions.put("tools.internal:8443", client.engine.session())
    session = client_context.sessions.take("tools.internal:8443")
    assert connected(client_context, server_context, session=session)[0].engine.resumed
    assert client_context.sessions.take("tools.internal:8443") is None


def test_a_session_of_another_context_is_a_mistake_of_ours() -> None:
    session = connected()[0].engine.session()
    with pytest.raises(ValueError, match="Session refers"):
        TlsEngine(planner_context(), session=session)


@pytest.mark.threat(11)
@pytest.mark.parametrize("what", ["listener", "reload", "successor"])
def test_threat_11_a_ticket_means_nothing_to_another_context(what: str) -> None:
    """Two listeners of one process, or the same one after a reload: a full handshake, and so a full check."""
    client_context, server_context = planner_context(), tools_context()
    session = connected(client_context, server_context)[0].engine.session()
    others = {"listener": tools_context(alpn=()), "reload": tools_context(), "successor": server_context.successor()}
    client, server = connected(client_context, others[what], session=session)
    assert client.open
    assert server.open
    assert (client.engine.resumed, server.engine.resumed) == (False, False)


@pytest.mark.threat(11)
def test_threat_11_a_ticket_does_not_outlive_the_trust_that_it_was_given_under() -> None:
    client_context, server_context = planner_context(), tools_context()
    session = connected(client_context, server_context)[0].engine.session()
    changed = tools_context(bundles=Ca(key="successor", now=NOW).bundles)
    client, server = connected(client_context, changed, session=session)
    assert server.code == TlsCode.AUTHORITY_UNKNOWN
    assert client.code == TlsCode.ALERT_UNKNOWN_CA
    assert not server.engine.resumed


@pytest.mark.threat(11)
@pytest.mark.threat(12)
def test_threat_11_and_12_a_resumed_caller_is_held_to_its_expiry() -> None:
    client_context, server_context = planner_context(), tools_context()
    first, served = connected(client_context, server_context)
    assert served.engine.peer is not None
    client = Ours(TlsEngine(client_context, session=first.engine.session()))
    server = Ours(TlsEngine(server_context), now=served.engine.peer.not_after + 1)
    converse(client, server)
    assert server.code == TlsCode.SESSION_EXPIRED
    assert isinstance(server.error, TlsError)
    assert not server.error.alert_sent
    assert (server.engine.state, server.engine.peer, server.to_send()) == (State.FAILED, None, b"")
    assert client.engine.session() is None, "no ticket for the refused"


@pytest.mark.threat(11)
def test_threat_11_the_chain_and_not_the_leaf_alone_ends_a_session() -> None:
    """An intermediate of an hour ends the session after that hour, whatever else the leaf could chain to."""
    short = CA.intermediate("short", lifetime=HOUR)
    leaf = short.leaf("/agent/planner/1", lifetime=HOUR)
    client_context, server_context = planner_context(leaf), tools_context()
    first, _ = connected(client_context, server_context)
    server = Ours(TlsEngine(server_context), now=NOW + HOUR + 1)
    converse(Ours(TlsEngine(client_context, session=first.engine.session())), server)
    assert server.code == TlsCode.SESSION_EXPIRED


@pytest.mark.threat(11)
def test_threat_11_a_resumed_caller_that_was_never_proven_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    client_context, server_context = planner_context(), tools_context()
    session = connected(client_context, server_context)[0].engine.session()
    monkeypatch.setattr(server_context, "_memory", PeerMemory())
    client, server = connected(client_context, server_context, session=session)
    assert server.code == TlsCode.SESSION_UNKNOWN
    assert server.engine.resumed
    assert client.open
    client.write(b"GET / HTTP/1.1\r\n\r\n")
    converse(client, server)
    assert server.plain == b""
    assert client.engine.session() is None


@pytest.mark.threat(11)
@pytest.mark.threat(13)
def test_threat_11_and_13_a_client_compares_name_and_pin_on_a_resumed_session_too() -> None:
    pins = {TOOLS.pin}
    named = IdPattern.parse("spiffe://example.org/agent/tools/*")

    def wanted(peer: Peer) -> None:
        expect_peer(named, frozenset(pins))(peer)

    client_context, server_context = planner_context(expect=wanted), tools_context()
    first, _ = connected(client_context, server_context)
    pins.clear()
    pins.add(PLANNER.pin)
    client, server = connected(client_context, server_context, session=first.engine.session())
    assert client.code == TlsCode.PEER_PIN
    assert client.engine.resumed
    assert client.to_send() == b""
    assert not server.open


@pytest.mark.threat(12)
def test_threat_12_a_client_holds_a_resumed_server_to_its_expiry() -> None:
    client_context, server_context = planner_context(), tools_context()
    first, _ = connected(client_context, server_context)
    assert first.engine.peer is not None
    client, server = connected(
        client_context, server_context, session=first.engine.session(), now=first.engine.peer.not_after + 1
    )
    assert client.code == TlsCode.SESSION_EXPIRED
    assert not server.open


def test_a_full_memory_loses_no_good_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every caller comes twice with its ticket, at a listener that moves on to a successor whenever it is asked to."""
    monkeypatch.setattr(contexts, "PeerMemory", lambda: PeerMemory(limit=3))
    server_context, made = tools_context(), 1
    for number in range(8):
        identity = INTERMEDIATE.leaf(f"/agent/planner/{number}", key=ec.generate_private_key(ec.SECP256R1()))
        client_context, session = planner_context(identity), None
        for _ in range(2):
            if server_context.full:
                server_context, made = server_context.successor(), made + 1
            client, server = connected(client_context, server_context, session=session)
            assert client.open
            assert server.open
            session = client.engine.session()
    assert made == 4


@pytest.mark.needs("pyopenssl")
@pytest.mark.threat(11)
def test_threat_11_a_foreign_clients_ticket_is_good_in_its_context_alone() -> None:
    server_context = tools_context()
    foreign = foreign_context(PLANNER, CA.certificate)
    first = Foreign(foreign, server=False)
    converse(first, Ours(TlsEngine(server_context)))
    session = first.connection.get_session()
    assert session is not None
    for context, resumed in ((server_context, True), (server_context.successor(), False)):
        client, server = Foreign(foreign, server=False, session=session), Ours(TlsEngine(context))
        converse(client, server)
        assert client.done
        assert client.error is None
        assert server.open
        assert server.engine.resumed is resumed
        assert server.engine.peer is not None
        assert server.engine.peer.id == PLANNER.id


@pytest.mark.threat(59)
def test_threat_59_early_data_is_neither_offered_nor_taken() -> None:
    """A client that pretends to have been offered some: it is thrown away, and the handshake goes on without."""
    library = ctypes.CDLL(_ssl.__file__)
    library.SSL_get_session.restype = ctypes.c_void_p
    for name in ("SSL_get_session", "SSL_SESSION_get_max_early_data", "SSL_version", "SSL_get_early_data_status"):
        getattr(library, name).argtypes = [ctypes.c_void_p]
    library.SSL_SESSION_set_max_early_data.argtypes = [ctypes.c_void_p, ctypes.c_uint32]
    library.SSL_write_early_data.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_void_p]

    def pointer_of(engine: TlsEngine) -> int:
        # PySSLSocket begins with the object's head and one pointer; then comes the SSL*.
        position = id(engine._object._sslobj) + object.__basicsize__ + ctypes.sizeof(ctypes.c_void_p)  # type: ignore[attr-defined]  # private
        pointer = ctypes.c_void_p.from_address(position).value
        assert pointer is not None
        return pointer

    client_context, server_context = planner_context(), tools_context()
    first, _ = connected(client_context, server_context)
    session = first.engine.session()
    pointer = pointer_of(first.engine)
    assert library.SSL_version(pointer) == 0x304
    assert library.SSL_SESSION_get_max_early_data(library.SSL_get_session(pointer)) == 0

    client, server = Ours(TlsEngine(client_context, session=session)), Ours(TlsEngine(server_context))
    pointer, written = pointer_of(client.engine), ctypes.c_size_t()
    assert library.SSL_SESSION_set_max_early_data(library.SSL_get_session(pointer), 16384) == 1
    assert library.SSL_write_early_data(pointer, b"GET / HTTP/1.1\r\n\r\n", 18, ctypes.byref(written)) == 1
    assert written.value == 18
    converse(client, server)
    rejected = 1
    assert library.SSL_get_early_data_status(pointer) == rejected
    assert client.open
    assert server.open
    assert server.plain == b""
