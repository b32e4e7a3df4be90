"""The handshake: who gets through the gate, what leaves before, and what is said to those who do not."""

from __future__ import annotations

import ssl
import threading
import time
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given
from hypothesis import strategies as st

from sidecar.identity.pattern import IdPattern
from sidecar.identity.refusal import Refusal, VerificationError
from sidecar.tls.engine import ALERT_BYTES, FEED_BYTES, HANDSHAKE_BYTES, HELD_BYTES, State, TlsEngine
from sidecar.tls.expectation import expect_peer
from sidecar.tls.failure import TlsCode, TlsError
from tests.support.ca import DAY, HOUR, Ca, Identity, Signer, forge
from tests.support.tls import (
    BAD_CERTIFICATE,
    CA,
    CERTIFICATE_EXPIRED,
    CERTIFICATE_REQUIRED,
    CERTIFICATE_UNKNOWN,
    DECRYPT_ERROR,
    ILLEGAL_PARAMETER,
    NOW,
    PLANNER,
    PROTOCOL_VERSION,
    TOOLS,
    UNKNOWN_CA,
    UNSUPPORTED_CERTIFICATE,
    Foreign,
    Ours,
    SSLContext,
    connected,
    converse,
    foreign_context,
    planner_context,
    prefer_groups,
    stolen_identity,
    tools_context,
)

if TYPE_CHECKING:
    from collections.abc import Callable

STRANGER = Ca(key="stranger", now=NOW)
ELSEWHERE = Ca("elsewhere.example", now=NOW)

SERVER_CONTEXT = tools_context()
CLIENT_CONTEXT = planner_context()

whole_and_byte_by_byte = pytest.mark.parametrize("chunk", [None, 1], ids=["whole", "byte-by-byte"])
foreign = pytest.mark.needs("pyopenssl")


def forged(signer: Signer, **knobs: object) -> Identity:
    """An identity whose certificate nobody should have issued."""
    defaults: dict[str, object] = {"not_before": NOW - HOUR, "not_after": NOW + HOUR}
    return Identity((forge(signer, PLANNER.key.public_key(), **(defaults | knobs)),), PLANNER.key)  # type: ignore[arg-type]  # knobs of forge


def serve(client_identity: Identity | None, chunk: int | None = None, **knobs: object) -> tuple[Foreign, Ours]:
    """A foreign client with that identity, which sends data along, at our server."""
    client = Foreign(foreign_context(client_identity, CA.certificate, **knobs), server=False)  # type: ignore[arg-type]  # knobs
    server = Ours(TlsEngine(tools_context()))
    converse(client, server, chunk)
    if client.done and not client.error and not server.error:
        client.write(b"GET / HTTP/1.1\r\n\r\n")
        converse(client, server, chunk)
    return client, server


def call(server_identity: Identity, chunk: int | None = None, *, key_pem: bytes | None = None) -> tuple[Ours, Foreign]:
    """Our client at a foreign server with that identity, which asks for a certificate and would take any of our CA's."""
    server = Foreign(foreign_context(server_identity, CA.certificate, key_pem=key_pem), server=True)
    client = Ours(TlsEngine(planner_context(), server_name="tools.internal"))
    converse(client, server, chunk)
    return client, server


def refused_by_alert(server: Ours, client: Foreign, code: TlsCode, alert: int) -> None:
    """Nothing was taken from the client, and it was told why."""
    assert server.code == code
    assert isinstance(server.error, TlsError)
    assert server.error.alert_sent
    assert server.engine.state is State.FAILED
    assert server.engine.peer is None
    assert server.plain == b""
    assert client.alerts == [alert]


def never_presented(client: Ours, server: Foreign) -> None:
    """Our certificate did not leave: neither did the server get one, nor was anything sent that could be one."""
    assert client.engine.state is State.FAILED
    assert client.engine.peer is None
    assert server.connection.get_peer_certificate() is None
    hello = 5 + int.from_bytes(client.sent[3:5], "big")
    assert len(client.sent) - hello <= ALERT_BYTES
    assert not server.done


class TestGood:
    @whole_and_byte_by_byte
    def test_both_prove_each_other(self, chunk: int | None) -> None:
        client, server = connected(chunk=chunk)
        assert client.open
        assert server.open
        assert client.engine.peer is not None
        assert server.engine.peer is not None
        assert (client.engine.peer.id, client.engine.peer.pin) == (TOOLS.id, TOOLS.pin)
        assert (server.engine.peer.id, server.engine.peer.pin) == (PLANNER.id, PLANNER.pin)

    def test_what_was_negotiated_can_be_logged(self) -> None:
        client, server = connected()
        assert client.engine.version == server.engine.version == "TLSv1.3"
        assert client.engine.cipher == server.engine.cipher
        assert (client.engine.cipher or "").startswith("TLS_")
        assert server.engine.server_name_received == "tools.internal"
        assert client.engine.server_name_received is None
        assert (client.engine.resumed, server.engine.resumed) == (False, False)

    def test_before_the_handshake_nothing_is_negotiated(self) -> None:
        engine = TlsEngine(planner_context())
        assert (engine.alpn, engine.cipher, engine.session(), engine.state) == (None, None, None, State.HANDSHAKE)

    @whole_and_byte_by_byte
    def test_the_bytes_of_the_handshake_are_counted(self, chunk: int | None) -> None:
        client, server = connected(chunk=chunk)
        assert server.engine.handshake_bytes_in == client.engine.handshake_bytes_out == len(client.sent)
        assert server.engine.handshake_bytes_out == len(server.sent)
        # The ticket comes after the client's handshake.
        assert 0 < client.engine.handshake_bytes_in < len(server.sent)

    def test_handshake_may_be_called_again(self) -> None:
        client, _ = connected()
        assert client.engine.handshake(NOW)
        assert client.engine.handshake(NOW + 10**9)

    @foreign
    @whole_and_byte_by_byte
    def test_a_foreign_client_is_served(self, chunk: int | None) -> None:
        client, server = serve(PLANNER, chunk)
        assert server.engine.peer is not None
        assert server.engine.peer.id == PLANNER.id
        assert server.plain == b"GET / HTTP/1.1\r\n\r\n"
        server.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        converse(client, server, chunk)
        assert client.plain == b"HTTP/1.1 204 No Content\r\n\r\n"

    @foreign
    @whole_and_byte_by_byte
    def test_a_foreign_server_is_called(self, chunk: int | None) -> None:
        client, server = call(TOOLS, chunk)
        assert client.engine.peer is not None
        assert client.engine.peer.id == TOOLS.id
        presented = server.connection.get_peer_certificate(as_cryptography=True)
        assert presented == PLANNER.leaf
        client.write(b"ping")
        server.write(b"pong")
        converse(client, server, chunk)
        assert (client.plain, server.plain) == (b"pong", b"ping")

    def test_data_that_follows_the_handshake_at_once_is_read(self) -> None:
        client, server = Ours(TlsEngine(planner_context())), Ours(TlsEngine(tools_context()))
        client.turn()
        server.receive(client.to_send())
        server.turn()
        client.receive(server.to_send())
        client.turn()
        client.write(b"x" * 200_000)
        server.receive(client.to_send())
        server.turn()
        assert server.plain == b"x" * 200_000


class TestCaller:
    """What our server refuses."""

    @foreign
    @pytest.mark.threat(3)
    @whole_and_byte_by_byte
    def test_threat_3_no_certificate_is_answered_with_certificate_required(self, chunk: int | None) -> None:
        client, server = serve(None, chunk)
        refused_by_alert(server, client, TlsCode.NO_CERTIFICATE, CERTIFICATE_REQUIRED)

    @foreign
    @pytest.mark.threat(3)
    def test_threat_3_data_sent_behind_the_missing_certificate_is_never_read(self) -> None:
        client = Foreign(foreign_context(None, CA.certificate), server=False)
        server = Ours(TlsEngine(tools_context()))
        client.turn()
        server.receive(client.to_send())
        server.turn()
        client.receive(server.to_send())
        client.turn()
        assert client.done, "in TLS 1.3 the client is done before the server has looked at its certificate"
        client.write(b"GET / HTTP/1.1\r\n\r\n")
        converse(client, server)
        refused_by_alert(server, client, TlsCode.NO_CERTIFICATE, CERTIFICATE_REQUIRED)

    @foreign
    @pytest.mark.threat(4)
    def test_threat_4_another_authority_of_the_same_name_is_unknown(self) -> None:
        stranger = STRANGER.leaf("/agent/planner/1")
        assert STRANGER.certificate.subject == CA.certificate.subject
        assert stranger.id == PLANNER.id
        client, server = serve(stranger)
        refused_by_alert(server, client, TlsCode.AUTHORITY_UNKNOWN, UNKNOWN_CA)

    @foreign
    @pytest.mark.threat(4)
    def test_threat_4_a_copied_key_identifier_gets_no_further_than_the_signature(self) -> None:
        signer = Signer(CA.certificate.subject, STRANGER.key)
        identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(CA.key.public_key())
        client, server = serve(forged(signer, extensions=[(identifier, False)]))
        refused_by_alert(server, client, TlsCode.SIGNATURE_INVALID, DECRYPT_ERROR)

    @foreign
    @pytest.mark.threat(9)
    def test_threat_9_a_certificate_for_servers_alone_is_none_for_a_client(self) -> None:
        client, server = serve(forged(CA.signer, purposes=[ExtendedKeyUsageOID.SERVER_AUTH]))
        refused_by_alert(server, client, TlsCode.WRONG_PURPOSE, UNSUPPORTED_CERTIFICATE)

    @foreign
    @pytest.mark.threat(10)
    @pytest.mark.parametrize(
        ("knobs", "code", "alert"),
        [
            ({"not_after": NOW - 1}, TlsCode.CERTIFICATE_EXPIRED, CERTIFICATE_EXPIRED),
            ({"not_before": NOW + DAY, "not_after": NOW + 2 * DAY}, TlsCode.CERTIFICATE_NOT_YET_VALID, BAD_CERTIFICATE),
            (
                {"extensions": [(x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3"), b"\5\0"), True)]},
                TlsCode.CRITICAL_EXTENSION,
                CERTIFICATE_UNKNOWN,
            ),
        ],
        ids=["expired", "not-yet-valid", "critical-extension"],
    )
    def test_threat_10_a_bad_certificate_is_told_why(self, knobs: dict[str, object], code: TlsCode, alert: int) -> None:
        client, server = serve(forged(CA.signer, **knobs))
        refused_by_alert(server, client, code, alert)

    @foreign
    @pytest.mark.threat(8)
    @pytest.mark.threat(5)
    @pytest.mark.parametrize(
        ("knobs", "code"),
        [
            ({"uris": ["spiffe://example.org/a", "spiffe://example.org/b"]}, Refusal.SEVERAL_URI_NAMES),
            ({"uris": [], "names": [x509.DNSName("example.org")]}, Refusal.NO_SPIFFE_ID),
            ({"ca": True}, Refusal.LEAF_IS_AUTHORITY),
            ({"uris": ["spiffe://other.example/a"]}, Refusal.TRUST_DOMAIN_UNKNOWN),
        ],
        ids=["two-names", "no-name", "authority", "other-domain"],
    )
    def test_threat_5_and_8_what_only_identity_refuses_is_refused_in_silence(
        self, knobs: dict[str, object], code: Refusal
    ) -> None:
        """OpenSSL is content with these. No alert, no close_notify, no session ticket leaves, and nothing is read."""
        client, server = serve(forged(CA.signer, **knobs))
        flight = server.sent
        assert isinstance(server.error, VerificationError)
        assert server.code == code
        assert server.plain == b""
        assert client.done
        assert (client.alerts, client.plain, client.eof) == ([], b"", False)
        assert server.to_send() == b""
        assert server.engine.handshake_bytes_out > len(flight), "there was a ticket to be dropped"
        assert server.engine.state is State.FAILED

    @whole_and_byte_by_byte
    def test_a_leaf_under_the_root_of_another_domain_is_refused(self, chunk: int | None) -> None:
        """The union of both bundles is what OpenSSL sees; each authority speaks for its own domain alone."""
        smuggled = forged(ELSEWHERE.signer, uris=[str(PLANNER.id)])
        server = Ours(TlsEngine(tools_context(bundles=CA.bundles | ELSEWHERE.bundles)))
        client = Ours(TlsEngine(planner_context(smuggled)))
        converse(client, server, chunk)
        assert isinstance(server.error, VerificationError)
        assert server.engine.peer is None
        assert client.engine.session() is None
        # The client believes that it is through, as TLS 1.3 goes, but whatever it says is not heard.
        client.write(b"GET / HTTP/1.1\r\n\r\n")
        converse(client, server, chunk)
        assert server.plain == b""

    @foreign
    @whole_and_byte_by_byte
    def test_a_stolen_certificate_without_its_key_is_refused(self, chunk: int | None) -> None:
        client, server = serve(PLANNER, chunk, key_pem=stolen_identity(PLANNER).key.lend(None))
        refused_by_alert(server, client, TlsCode.BAD_SIGNATURE, DECRYPT_ERROR)


class TestImpostor:
    """What our client refuses, before its certificate has left."""

    @foreign
    @whole_and_byte_by_byte
    def test_a_good_chain_with_the_wrong_key_never_sees_our_certificate(self, chunk: int | None) -> None:
        client, server = call(TOOLS, chunk, key_pem=stolen_identity(TOOLS).key.lend(None))
        assert client.code == TlsCode.BAD_SIGNATURE
        assert server.alerts == [DECRYPT_ERROR]
        never_presented(client, server)

    @foreign
    @pytest.mark.threat(4)
    def test_threat_4_another_authority_of_the_same_name_never_sees_our_certificate(self) -> None:
        client, server = call(STRANGER.leaf("/agent/tools/1"))
        assert client.code == TlsCode.AUTHORITY_UNKNOWN
        assert server.alerts == [UNKNOWN_CA]
        never_presented(client, server)

    @foreign
    @pytest.mark.threat(9)
    def test_threat_9_a_certificate_for_clients_alone_is_none_for_a_server(self) -> None:
        client, server = call(forged(CA.signer, purposes=[ExtendedKeyUsageOID.CLIENT_AUTH]))
        assert client.code == TlsCode.WRONG_PURPOSE
        assert server.alerts == [UNSUPPORTED_CERTIFICATE]
        never_presented(client, server)

    @foreign
    def test_an_expired_server_is_told_so(self) -> None:
        client, server = call(forged(CA.signer, not_after=NOW - 1))
        assert client.code == TlsCode.CERTIFICATE_EXPIRED
        assert server.alerts == [CERTIFICATE_EXPIRED]
        never_presented(client, server)

    @foreign
    @pytest.mark.threat(27)
    @whole_and_byte_by_byte
    def test_threat_27_a_valid_peer_of_another_name_never_sees_our_certificate(self, chunk: int | None) -> None:
        """The host name fits, the chain is good, the SPIFFE ID is somebody else's."""
        wanted = expect_peer(IdPattern.parse("spiffe://example.org/agent/tools/*"))
        other = CA.leaf("/agent/other/1", now=NOW, dns_names=["tools.internal"])
        server = Foreign(foreign_context(other, CA.certificate), server=True)
        client = Ours(TlsEngine(planner_context(expect=wanted), server_name="tools.internal"))
        converse(client, server, chunk)
        assert client.code == TlsCode.PEER_NAME
        assert server.alerts == []
        assert client.to_send() == b""
        never_presented(client, server)

    @foreign
    @pytest.mark.threat(13)
    def test_threat_13_a_good_chain_without_a_pinned_key_never_sees_our_certificate(self) -> None:
        wanted = expect_peer(IdPattern.parse("spiffe://example.org/agent/tools/*"), frozenset({PLANNER.pin}))
        server = Foreign(foreign_context(TOOLS, CA.certificate), server=True)
        client = Ours(TlsEngine(planner_context(expect=wanted)))
        converse(client, server)
        assert client.code == TlsCode.PEER_PIN
        never_presented(client, server)

    @pytest.mark.threat(13)
    def test_threat_13_a_backup_pin_works(self) -> None:
        wanted = expect_peer(IdPattern.parse("spiffe://example.org/agent/tools/*"), frozenset({PLANNER.pin, TOOLS.pin}))
        assert connected(planner_context(expect=wanted))[0].open

    @foreign
    def test_a_server_of_a_domain_that_is_trusted_elsewhere_never_sees_our_certificate(self) -> None:
        """The entry's peer is of example.org; that the other domain has a bundle too changes nothing."""
        server = Foreign(foreign_context(ELSEWHERE.leaf("/agent/tools/1"), CA.certificate), server=True)
        client = Ours(TlsEngine(planner_context(bundles=CA.bundles | ELSEWHERE.bundles)))
        converse(client, server)
        assert client.code == TlsCode.AUTHORITY_UNKNOWN
        never_presented(client, server)

    def test_an_unexpected_error_in_a_check_lets_nothing_out_either(self) -> None:
        def broken(_peer: object) -> None:
            raise ZeroDivisionError

        engine = TlsEngine(planner_context(expect=broken))
        server = Ours(TlsEngine(tools_context()))
        engine.handshake(NOW)
        server.receive(engine.to_send())
        server.turn()
        engine.receive(server.to_send())
        with pytest.raises(ZeroDivisionError):
            engine.handshake(NOW)
        assert (engine.state, engine.peer, engine.to_send()) == (State.FAILED, None, b"")

    def test_a_failure_of_our_own_signature_drops_what_lies_before_the_alert(self) -> None:
        """As with a key in hardware that does not answer: the chain was accepted by OpenSSL, the name not yet by us."""

        class Failing:
            def do_handshake(self) -> None:
                engine.outgoing.write(b"c" * 1000 + b"alert")
                raise ssl.SSLError(1, "EVP lib")

        engine = TlsEngine(planner_context())
        engine._object = Failing()  # type: ignore[assignment]  # as much of an SSLObject as is looked at
        with pytest.raises(TlsError) as caught:
            engine.handshake(NOW)
        assert caught.value.code is TlsCode.PROTOCOL_ERROR
        assert not caught.value.alert_sent
        assert engine.to_send() == b""


class TestVersions:
    @foreign
    @pytest.mark.threat(59)
    def test_threat_59_a_client_of_tls_1_2_gets_protocol_version(self) -> None:
        from OpenSSL import SSL

        client, server = serve(PLANNER, version=SSL.TLS1_2_VERSION)
        refused_by_alert(server, client, TlsCode.PROTOCOL_VERSION, PROTOCOL_VERSION)

    @foreign
    @pytest.mark.threat(59)
    def test_threat_59_a_server_of_tls_1_2_is_not_talked_to(self) -> None:
        from OpenSSL import SSL

        server = Foreign(foreign_context(TOOLS, CA.certificate, version=SSL.TLS1_2_VERSION), server=True)
        client = Ours(TlsEngine(planner_context()))
        converse(client, server)
        assert client.code == TlsCode.ALERT_PROTOCOL_VERSION
        never_presented(client, server)


class TestGarbage:
    @pytest.mark.parametrize(
        ("data", "code"),
        [
            (b"GET / HTTP/1.1\r\nHost: tools\r\n\r\n", TlsCode.HTTP_ON_TLS),
            (b"POST /mcp HTTP/1.1\r\n\r\n", TlsCode.HTTP_ON_TLS),
            (b"CONNECT tools:443 HTTP/1.1\r\n\r\n", TlsCode.HTTP_ON_TLS),
            (b"SSH-2.0-OpenSSH_9.6\r\n", TlsCode.NOT_TLS),
            (bytes(100), TlsCode.NOT_TLS),
            (b"\xff" * 100, TlsCode.NOT_TLS),
            (b"\x16\3\1\xff\xff" + bytes(100), TlsCode.BAD_RECORD),
            (b"\x16\3\1\0\5\2\0\0\1\0", TlsCode.PROTOCOL_ERROR),
            (b"\x15\3\3\0\2\1\0", TlsCode.PROTOCOL_ERROR),
            (b"\x17\3\3\0\x10" + bytes(16), TlsCode.PROTOCOL_ERROR),
        ],
    )
    @whole_and_byte_by_byte
    def test_what_is_no_client_hello_is_refused_by_name(self, data: bytes, code: TlsCode, chunk: int | None) -> None:
        server = Ours(TlsEngine(tools_context()))
        for start in range(0, len(data), chunk or len(data)):
            server.receive(data[start : start + chunk] if chunk else data)
            server.turn()
        assert server.code == code
        assert isinstance(server.error, TlsError)
        assert server.error.alert_sent == bool(server.to_send())

    def test_a_close_notify_instead_of_a_server_hello_is_a_truncated_handshake(self) -> None:
        client = Ours(TlsEngine(planner_context()))
        client.turn()
        client.receive(b"\x15\3\3\0\2\1\0")
        client.turn()
        assert client.code == TlsCode.HANDSHAKE_TRUNCATED

    @given(st.binary(min_size=6, max_size=200))
    def test_any_bytes_end_in_a_refusal_or_in_waiting(self, noise: bytes) -> None:
        """Invariant: whatever a stranger sends, the only exceptions are refusals, and nothing is ever readable."""
        server = Ours(TlsEngine(SERVER_CONTEXT))
        server.receive(noise)
        server.turn()
        server.receive_eof()
        assert server.error is not None
        assert server.plain == b""

    @given(st.data())
    def test_a_damaged_conversation_never_opens_wrongly(self, data: st.DataObject) -> None:
        """Invariant: one byte changed anywhere on the wire, and no plaintext but the true one ever comes out."""
        client, server = Ours(TlsEngine(CLIENT_CONTEXT)), Ours(TlsEngine(SERVER_CONTEXT))
        client.turn()
        position = data.draw(st.integers(0, 4500))
        change = data.draw(st.integers(1, 255))
        passed = 0
        for _ in range(4):
            for sender, receiver in ((client, server), (server, client)):
                if sender.open:
                    sender.write(b"true")
                wire = bytearray(sender.to_send())
                if passed <= position < passed + len(wire):
                    wire[position - passed] ^= change
                passed += len(wire)
                receiver.receive(bytes(wire))
                receiver.turn()
        assert client.plain + b"true" * (4 - len(client.plain) // 4) == b"true" * 4
        assert server.plain + b"true" * (4 - len(server.plain) // 4) == b"true" * 4
        assert client.engine.peer is None or client.engine.peer.id == TOOLS.id
        assert server.engine.peer is None or server.engine.peer.id == PLANNER.id


class TestUnfinished:
    @pytest.mark.threat(46)
    @pytest.mark.parametrize("part", [0, 1, 5, 100, -1])
    def test_threat_46_half_a_hello_waits_and_then_has_its_own_code(self, part: int) -> None:
        client, server = Ours(TlsEngine(planner_context())), Ours(TlsEngine(tools_context()))
        client.turn()
        server.receive(client.to_send()[:part])
        assert not server.engine.handshake(NOW)
        assert server.to_send() == b""
        server.receive_eof()
        assert server.code == (TlsCode.HANDSHAKE_TRUNCATED if part else TlsCode.CLOSED_BEFORE_HELLO)
        assert server.to_send() == b""

    @pytest.mark.threat(46)
    def test_threat_46_a_client_that_leaves_after_the_servers_flight(self) -> None:
        client, server = Ours(TlsEngine(planner_context())), Ours(TlsEngine(tools_context()))
        client.turn()
        server.receive(client.to_send())
        server.turn()
        assert len(server.to_send()) > 1000
        server.receive_eof()
        assert server.code == TlsCode.HANDSHAKE_TRUNCATED

    def test_a_server_that_closes_at_once(self) -> None:
        client = Ours(TlsEngine(planner_context()))
        client.turn()
        client.receive_eof()
        assert client.code == TlsCode.CLOSED_BEFORE_HELLO

    def test_bytes_that_came_before_the_end_are_still_worked_on(self) -> None:
        client, server = Ours(TlsEngine(planner_context())), Ours(TlsEngine(tools_context()))
        client.turn()
        server.receive(client.to_send())
        server.turn()
        client.receive(server.to_send())
        client.turn()
        client.write(b"last words")
        server.receive(client.to_send())
        server.engine.receive_eof()
        server.turn()
        assert server.plain == b"last words"
        assert server.engine.truncated

    @pytest.mark.parametrize("engine", [TlsEngine(SERVER_CONTEXT), TlsEngine(CLIENT_CONTEXT)], ids=["server", "client"])
    def test_no_data_passes_before_the_handshake_is_done(self, engine: TlsEngine) -> None:
        attempts: list[Callable[[], object]] = [
            engine.read,
            lambda: engine.write(b"x"),
            lambda: engine.write(bytes(FEED_BYTES + 1)),
            engine.close_write,
        ]
        for attempt in attempts:
            with pytest.raises(RuntimeError):
                attempt()
        assert engine.state is State.HANDSHAKE

    def test_closing_before_the_handshake_is_done_says_nothing(self) -> None:
        client = Ours(TlsEngine(planner_context()))
        client.turn()
        client.engine.close()
        assert client.to_send() == b""
        assert client.engine.state is State.FAILED
        with pytest.raises(RuntimeError):
            client.engine.handshake(NOW)

    @pytest.mark.parametrize("name", ["x" * 64 + ".example.org", "a..b", ".example.org"])
    def test_a_server_name_that_is_none_is_a_mistake_of_ours(self, name: str) -> None:
        with pytest.raises(ValueError):
            TlsEngine(planner_context(), server_name=name)


class TestOwnership:
    def test_what_arrives_during_a_step_waits_for_it(self) -> None:
        """As when steps run in a thread: ``receive`` and ``receive_eof`` then only put things aside."""

        class Slow:
            def __init__(self, real: ssl.SSLObject) -> None:
                self.real = real

            def __getattr__(self, name: str) -> object:
                return getattr(self.real, name)

            def do_handshake(self) -> None:
                fed = engine._incoming.pending
                if arriving:
                    engine.receive(arriving.pop(0))
                    if not arriving:
                        engine.receive_eof()
                assert engine._incoming.pending == fed
                self.real.do_handshake()

        client, engine = Ours(TlsEngine(CLIENT_CONTEXT)), TlsEngine(SERVER_CONTEXT)
        engine._object = Slow(engine._object)  # type: ignore[assignment]  # as much of an SSLObject as is looked at
        client.turn()
        hello = client.to_send()
        arriving = [hello[start : start + 100] for start in range(0, len(hello), 100)]
        server = Ours(engine)
        for _ in range(len(arriving) + 2):
            server.turn()
        assert server.code == TlsCode.HANDSHAKE_TRUNCATED
        assert len(engine._incoming.read()) == 0
        assert engine.handshake_bytes_out > 1000, "the whole hello was answered before the end was looked at"

    def test_data_that_arrives_during_the_last_step_is_read(self) -> None:
        client, server = Ours(TlsEngine(CLIENT_CONTEXT)), Ours(TlsEngine(SERVER_CONTEXT))
        client.turn()
        server.receive(client.to_send())
        server.turn()
        client.receive(server.to_send())
        client.turn()
        finished = client.to_send()
        client.write(b"early bird")
        data = client.to_send()
        prove = SERVER_CONTEXT.prove

        class Context:
            role = SERVER_CONTEXT.role
            take_failure = SERVER_CONTEXT.take_failure

            def prove(self, connection: ssl.SSLObject, now: float) -> object:
                server.engine.receive(data)
                return prove(connection, now)

        server.engine._context = Context()  # type: ignore[assignment]  # as much of a TlsContext as is looked at
        server.receive(finished)
        server.turn()
        assert server.plain == b"early bird"

    def test_steps_in_another_thread_are_taken_over_here(self) -> None:
        """Nothing of an engine but OpenSSL's part changes in ``work``; ``handshake`` runs nothing anew."""
        client, server = TlsEngine(CLIENT_CONTEXT), TlsEngine(SERVER_CONTEXT)
        wire = {client: server, server: client}
        for _ in range(4):
            for engine, other in wire.items():
                before = engine.state
                thread = threading.Thread(target=engine.work)
                thread.start()
                thread.join()
                assert engine.state is before
                assert engine.peer is None or before is State.OPEN
                engine.handshake(NOW)
                other.receive(engine.to_send())
        assert client.state is server.state is State.OPEN
        assert client.peer is not None
        assert server.peer is not None
        assert str(server.peer.id).endswith("/agent/planner/1")

    def test_what_fails_in_another_thread_is_raised_here(self) -> None:
        server = TlsEngine(SERVER_CONTEXT)
        server.receive(b"GET / HTTP/1.1\r\n\r\n")
        thread = threading.Thread(target=server.work)
        thread.start()
        thread.join()
        assert server.state is State.HANDSHAKE
        with pytest.raises(TlsError) as caught:
            server.handshake(NOW)
        assert caught.value.code is TlsCode.HTTP_ON_TLS
        assert server.state is State.FAILED

    def test_a_hello_retry_request_is_no_answer(self) -> None:
        """Its sender has still to be signed for; and every flight of ours is one, that of a resumed handshake too."""
        bare = SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        bare.check_hostname = False
        bare.load_verify_locations(cadata=CA.pem.decode())
        picky = tools_context()
        prefer_groups(picky.sslcontext, b"X25519")
        prefer_groups(bare, b"P-256:X25519")
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        client, server = bare.wrap_bio(incoming, outgoing), TlsEngine(picky)
        answered = []
        for _ in range(2):
            with pytest.raises(ssl.SSLWantReadError):
                client.do_handshake()
            server.receive(outgoing.read())
            assert not server.handshake(NOW)
            answered.append(server.answered)
            incoming.write(server.to_send())
        assert answered == [False, True]

        first, _ = connected(CLIENT_CONTEXT, SERVER_CONTEXT)
        resumed, served = connected(CLIENT_CONTEXT, SERVER_CONTEXT, session=first.engine.session())
        assert (resumed.engine.resumed, served.engine.answered) == (True, True)


class TestTooMuch:
    @foreign
    @pytest.mark.threat(50)
    @pytest.mark.parametrize("chunk", [None, 1000])
    def test_threat_50_a_chain_of_a_megabyte_is_refused_at_once(self, chunk: int | None) -> None:
        extra = 1_000_000 // len(PLANNER.der[-1])
        began = time.process_time()
        client, server = serve(PLANNER, chunk, extra=extra)
        refused_by_alert(server, client, TlsCode.HANDSHAKE_TOO_LARGE, ILLEGAL_PARAMETER)
        assert time.process_time() - began < 1
        assert server.engine.handshake_bytes_in <= HANDSHAKE_BYTES + FEED_BYTES

    @foreign
    @pytest.mark.threat(50)
    def test_threat_50_the_longest_chain_that_openssl_takes_is_refused_at_once(self) -> None:
        began = time.process_time()
        _, server = serve(PLANNER, extra=90_000 // len(PLANNER.der[-1]))
        assert server.code == Refusal.CHAIN_TOO_LONG
        assert time.process_time() - began < 1

    def test_a_handshake_that_does_not_end_is_ended(self) -> None:
        """A hello just short of the largest that OpenSSL waits for, without its last byte."""
        size = 131_000
        message = b"\1" + size.to_bytes(3, "big") + bytes(size)
        pieces = [message[start : start + 400] for start in range(0, len(message), 400)]
        wire = b"".join(b"\x16\3\1" + len(piece).to_bytes(2, "big") + piece for piece in pieces)[:-1]
        for chunk in (len(wire), 10_000):
            server = Ours(TlsEngine(tools_context()))
            for start in range(0, len(wire), chunk):
                server.receive(wire[start : start + chunk])
                server.turn()
            assert server.code == TlsCode.HANDSHAKE_TOO_LARGE
            assert server.to_send() == b""

    def test_what_is_held_during_a_step_is_bounded(self) -> None:
        server = TlsEngine(tools_context())
        for _ in range(100):
            server.receive(bytes(FEED_BYTES))
        assert sum(map(len, server._held)) <= HELD_BYTES
        with pytest.raises(TlsError) as caught:
            server.handshake(NOW)
        assert caught.value.code is TlsCode.HANDSHAKE_TOO_LARGE
        server.receive(bytes(FEED_BYTES))
        assert not server._held

    def test_the_incoming_memory_is_never_given_more_than_a_portion(self) -> None:
        class Counting:
            def __init__(self, bio: ssl.MemoryBIO) -> None:
                self.bio, self.largest = bio, 0

            def write(self, data: bytes) -> int:
                written = self.bio.write(data)
                self.largest = max(self.largest, self.bio.pending)
                return written

            @property
            def pending(self) -> int:
                return self.bio.pending

        client, server = connected()
        server.engine._incoming = counting = Counting(server.engine._incoming)  # type: ignore[assignment]  # a spy
        client.write(b"x" * 1_000_000)
        server.receive(client.to_send())
        server.turn()
        assert server.plain == b"x" * 1_000_000
        assert counting.largest == FEED_BYTES


@given(st.lists(st.integers(1, 3000), max_size=40))
def test_any_split_of_the_handshake_gives_the_same_verdicts(sizes: list[int]) -> None:
    """Invariant: however the bytes are cut, both ends prove the same peers."""
    client, server = Ours(TlsEngine(CLIENT_CONTEXT)), Ours(TlsEngine(SERVER_CONTEXT))
    client.turn()
    cuts = iter(sizes)
    moved = True
    while moved:
        moved = False
        for sender, receiver in ((client, server), (server, client)):
            wire = sender.to_send()
            moved = moved or bool(wire)
            while wire:
                size = next(cuts, len(wire))
                receiver.receive(wire[:size])
                receiver.turn()
                wire = wire[size:]
    assert client.engine.peer is not None
    assert server.engine.peer is not None
    assert (client.engine.peer.id, server.engine.peer.id) == (TOOLS.id, PLANNER.id)
