"""A peer is shown whatever it is; what is no TLS peer is named; nothing is ever sent to it but the handshake."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

pytest.importorskip("OpenSSL", reason="pyOpenSSL is missing")

from OpenSSL import SSL

from sidecar.inspection.described import describe
from sidecar.inspection.errors import InspectCode, InspectError
from sidecar.inspection.look import Seen, look
from sidecar.inspection.wire import Wire
from tests.support.ca import Ca
from tests.support.eventually import eventually
from tests.support.presenting import closing, presenting, saying, silent, tls
from tests.support.raw import LOOPBACK
from tests.support.tls import NOW

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.raw import Raw

#: X.690 11.1: TRUE in DER is 0xFF and nothing else; RFC 5280 4.1.2.1: there is no version behind 3.
UNREADABLE = {"not-der": (b"\x01\x01\xff", b"\x01\x01\x01"), "version-4": (b"\xa0\3\2\1\2", b"\xa0\3\2\1\3")}
CA = Ca(now=NOW)
TOOLS = CA.intermediate().leaf("/agent/tools/1")


def seen_at(server: Raw, *, name: str | None = None, seconds: float = 10) -> Seen:
    with server, Wire(LOOPBACK, server.port, seconds) as wire:
        return look(wire, name, ("http/1.1",))


def refused(server: Raw, seconds: float = 10) -> InspectError:
    with pytest.raises(InspectError) as caught:
        seen_at(server, seconds=seconds)
    return caught.value


def test_everything_that_a_peer_presents() -> None:
    server, received = tls(TOOLS)
    seen = seen_at(server, name="tools.internal")
    assert (seen.version, seen.alpn) == ("TLSv1.3", "http/1.1")
    assert seen.cipher is not None
    assert seen.cipher.startswith("TLS_")
    assert seen.group
    assert list(seen.chain) == TOOLS.der
    assert (seen.asks, seen.authorities, seen.verdict) == (False, (), "")
    eventually(lambda: server.ends, "the server to see the end")
    assert received == [], "no application data"


@pytest.mark.parametrize("names", [False, True])
def test_a_peer_that_wants_a_certificate_says_so_after_the_handshake(names: bool) -> None:
    server, received = tls(TOOLS, CA.certificate, names=names)
    seen = seen_at(server)
    assert seen.asks
    assert seen.verdict == "certificate_required"
    assert seen.authorities == ((f"CN={CA.domain} authority",) if names else ())
    assert received == []


def test_a_peer_of_tls_1_2_that_wants_a_certificate_was_seen_all_the_same() -> None:
    server, _ = tls(TOOLS, CA.certificate, version=SSL.TLS1_2_VERSION)
    seen = seen_at(server)
    assert (seen.version, seen.asks, seen.verdict) == ("TLSv1.2", True, "handshake_failure")
    assert list(seen.chain) == TOOLS.der


@pytest.mark.parametrize("change", list(UNREADABLE))
def test_a_certificate_that_openssl_alone_reads_is_shown_as_it_came(change: str, tmp_path: Path) -> None:
    der = TOOLS.der[0].replace(*UNREADABLE[change], 1)
    assert der != TOOLS.der[0]
    seen = seen_at(presenting(der, TOOLS.key_pem, tmp_path))
    assert seen.chain == (der,)
    assert describe(seen.chain[0]).unreadable


def test_a_peer_of_tls_1_2_alone_is_shown() -> None:
    server, _ = tls(TOOLS, version=SSL.TLS1_2_VERSION)
    seen = seen_at(server)
    assert (seen.version, list(seen.chain)) == ("TLSv1.2", TOOLS.der)


def test_a_hundred_certificates_are_shown() -> None:
    server, _ = tls(TOOLS, extra=100)
    assert len(seen_at(server).chain) == 102


def test_more_certificates_than_openssl_takes_are_refused() -> None:
    server, _ = tls(TOOLS, extra=600)
    error = refused(server)
    assert error.code in {InspectCode.HANDSHAKE, InspectCode.TOO_MUCH}


@pytest.mark.parametrize(
    ("said", "code"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", InspectCode.PLAIN_HTTP),
        (b"SSH-2.0-OpenSSH_9.2\r\n", InspectCode.NOT_TLS),
        (b"\x15\x03\x03\x00\x02\x02\x28", InspectCode.HANDSHAKE),
        (b"\x16\x03\x03\x00\x04\x02\x00\x00\x00", InspectCode.HANDSHAKE),
    ],
)
def test_what_is_no_good_tls_is_named(said: bytes, code: InspectCode) -> None:
    error = refused(saying(said))
    assert error.code is code
    assert "SSH" not in str(error), "nothing of what it said"


def test_an_alert_is_named() -> None:
    assert "with the TLS alert handshake_failure" in str(refused(saying(b"\x15\x03\x03\x00\x02\x02\x28")))


def test_a_peer_that_closes_is_named() -> None:
    assert refused(closing()).code is InspectCode.CLOSED


def test_a_peer_that_says_nothing_is_waited_for_so_long_and_no_longer() -> None:
    error = refused(silent(), seconds=0.2)
    assert error.code is InspectCode.TIMEOUT
    assert "was not done after 0.2 s" in str(error)


def test_nobody_there() -> None:
    with pytest.raises(InspectError) as caught, Wire(LOOPBACK, 1, 5):
        pass
    assert caught.value.code is InspectCode.UNREACHABLE
    assert "connection refused" in str(caught.value)
