"""TLS to servers of the web: what the contexts are, whom they believe, and to whom our certificate is shown."""

from __future__ import annotations

import socket
import ssl
import warnings
from typing import TYPE_CHECKING

import pytest

from sidecar.keys import software
from sidecar.tls.contexts import ContextCode, ContextError, Credentials
from sidecar.tls.web import web_context
from tests.support.ca import HOUR, pem
from tests.support.tls import CA, NOW, PLANNER, TOOLS
from tests.support.web import AUTHORITY, OURS, SITE, STRANGER, Web, demanding, https, page, sending

if TYPE_CHECKING:
    from pathlib import Path

    from sidecar.tls.contexts import BareContext
    from tests.support.ca import Identity

OK = sending(page())
PLAIN = web_context(AUTHORITY.pem)
MUTUAL = web_context(AUTHORITY.pem, OURS)


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=20)


def greet(context: BareContext, server: Web, host: str = "localhost") -> str | None:
    """Makes a handshake, asks for something, and returns the version that was spoken. Raises as `ssl` does."""
    with connect(server.port) as sock, context.wrap_socket(sock, server_hostname=host) as secured:
        secured.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert secured.recv(1)
        return secured.version()


def verdict(context: BareContext, identity: Identity, host: str = "localhost") -> int:
    """OpenSSL's number for why a server is refused; 0 if it is not."""
    with Web(OK, https(identity)) as server:
        try:
            greet(context, server, host)
        except ssl.SSLCertVerificationError as error:
            assert server.requests == []
            return error.verify_code
        return 0


def old_server(version: ssl.TLSVersion) -> BareContext:
    context = https()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # it says of 1.1 what this test is about
        context.minimum_version = context.maximum_version = version
    context.set_ciphers("ALL:@SECLEVEL=0")
    return context


@pytest.mark.parametrize("context", [PLAIN, MUTUAL], ids=["plain", "mutual"])
def test_a_server_is_verified_by_its_host_name_always(context: BareContext) -> None:
    assert context.check_hostname
    assert not context.hostname_checks_common_name
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.options & ssl.OP_NO_RENEGOTIATION
    assert context.options & ssl.OP_NO_COMPRESSION
    assert not context.options & getattr(ssl, "OP_IGNORE_UNEXPECTED_EOF", 0)


def test_who_is_believed() -> None:
    assert verdict(PLAIN, SITE) == 0
    assert verdict(PLAIN, SITE, "127.0.0.1") == 0
    assert verdict(PLAIN, AUTHORITY.site("other.internal")) == 62  # X509_V_ERR_HOSTNAME_MISMATCH
    assert verdict(PLAIN, AUTHORITY.site("localhost"), "127.0.0.1") == 64  # X509_V_ERR_IP_ADDRESS_MISMATCH
    assert verdict(PLAIN, STRANGER.site("localhost")) == 20  # X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY
    assert verdict(PLAIN, AUTHORITY.site("localhost", not_after=NOW - 60)) == 10  # X509_V_ERR_CERT_HAS_EXPIRED
    assert verdict(PLAIN, AUTHORITY.site("localhost", not_before=NOW + HOUR)) == 9  # X509_V_ERR_CERT_NOT_YET_VALID


def test_a_common_name_is_no_host() -> None:
    assert verdict(PLAIN, AUTHORITY.site(subject="localhost")) == 62


def test_an_identity_of_our_trust_domain_is_no_issuer() -> None:
    """Not even a good one, by an authority that other connections trust."""
    assert verdict(PLAIN, TOOLS) == 20
    assert verdict(web_context(CA.pem), TOOLS) == 62


def test_trust_is_exactly_the_file() -> None:
    assert PLAIN.get_ca_certs(binary_form=True) == [ssl.PEM_cert_to_DER_cert(AUTHORITY.pem.decode())]
    several = b"# two of them, \xc3\xbc\n" + AUTHORITY.pem + STRANGER.pem + AUTHORITY.pem
    assert len(web_context(several).get_ca_certs()) == 2
    assert verdict(web_context(several), STRANGER.site("localhost")) == 0


def test_a_certificate_in_the_file_is_an_anchor_whoever_signed_it() -> None:
    assert verdict(web_context(pem(SITE.leaf)), SITE) == 0
    assert verdict(web_context(pem(SITE.leaf)), AUTHORITY.site("localhost", serial=7)) == 20


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", ContextCode.NO_AUTHORITY),
        (b"garbage", ContextCode.NO_AUTHORITY),
        (TOOLS.key_pem, ContextCode.NO_AUTHORITY),
        (AUTHORITY.pem[:-20], ContextCode.AUTHORITIES),
        (AUTHORITY.pem + b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", ContextCode.AUTHORITIES),
        (AUTHORITY.pem + b"-----BEGIN CERTIFICATE-----\n?\n-----END CERTIFICATE-----\n", ContextCode.AUTHORITIES),
    ],
    ids=["empty", "garbage", "a-key", "cut-short", "no-certificate", "no-base64"],
)
def test_a_file_without_authorities_trusts_nobody(content: bytes, code: ContextCode) -> None:
    with pytest.raises(ContextError) as caught:
        web_context(content)
    assert caught.value.code is code
    assert "PRIVATE" not in str(caught.value)


def test_without_a_file_it_is_the_systems_roots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As OpenSSL finds them, which its own variable can say."""
    assert verdict(web_context(None), SITE) == 20
    roots = tmp_path / "roots.pem"
    roots.write_bytes(AUTHORITY.pem)
    monkeypatch.setenv("SSL_CERT_FILE", str(roots))
    assert verdict(web_context(None), SITE) == 0
    assert verdict(web_context(STRANGER.pem), SITE) == 20


def test_tls_1_2_will_do_where_nothing_of_ours_is_shown() -> None:
    with Web(OK, old_server(ssl.TLSVersion.TLSv1_2)) as server:
        assert greet(PLAIN, server) == "TLSv1.2"
    with Web(OK, https()) as server:
        assert greet(PLAIN, server) == greet(MUTUAL, server) == "TLSv1.3"


@pytest.mark.threat(59)
@pytest.mark.parametrize(
    ("context", "version"),
    [(PLAIN, ssl.TLSVersion.TLSv1_1), (MUTUAL, ssl.TLSVersion.TLSv1_1), (MUTUAL, ssl.TLSVersion.TLSv1_2)],
    ids=["1.1", "1.1-mutual", "1.2-mutual"],
)
def test_threat_59_older_versions_are_refused(context: BareContext, version: ssl.TLSVersion) -> None:
    with Web(OK, old_server(version)) as server:
        with pytest.raises(ssl.SSLError) as caught:
            greet(context, server)
        assert caught.value.reason == "TLSV1_ALERT_PROTOCOL_VERSION"
        assert server.requests == []


def test_ciphers_of_tls_1_2_have_forward_secrecy() -> None:
    older = [cipher for cipher in PLAIN.get_ciphers() if cipher["protocol"] != "TLSv1.3"]
    assert older
    assert all(cipher["kea"] in {"kx-ecdhe", "kx-dhe"} for cipher in older)


def test_our_certificate_is_shown_by_the_mutual_context_alone() -> None:
    with Web(OK, demanding()) as server:
        greet(MUTUAL, server)
        assert server.shown == [PLANNER.der[0]]
        with pytest.raises((ssl.SSLError, ConnectionError)):
            greet(PLAIN, server)
        assert server.shown == [PLANNER.der[0]]


def test_nobody_who_is_not_trusted_gets_to_see_it() -> None:
    with Web(OK, https(STRANGER.site("localhost"), clients=CA.pem)) as server:
        with pytest.raises(ssl.SSLCertVerificationError):
            greet(MUTUAL, server)
        assert server.shown == []


def test_unusable_credentials_are_refused_without_a_question(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ContextError) as caught:
        web_context(AUTHORITY.pem, Credentials(PLANNER.chain_pem, software.load(TOOLS.key_pem)))
    assert caught.value.code is ContextCode.CREDENTIALS
    assert capfd.readouterr() == ("", "")


def test_the_key_log_of_the_environment_is_not_honoured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "keys"
    monkeypatch.setenv("SSLKEYLOGFILE", str(log))
    with Web(OK, https()) as server:
        greet(web_context(AUTHORITY.pem), server)
    assert not log.exists()


def test_http_1_1_is_all_that_is_offered() -> None:
    server_side = https()
    server_side.set_alpn_protocols(["h2", "http/1.1"])
    with (
        Web(OK, server_side) as server,
        connect(server.port) as sock,
        PLAIN.wrap_socket(sock, server_hostname="localhost") as secured,
    ):
        assert secured.selected_alpn_protocol() == "http/1.1"
