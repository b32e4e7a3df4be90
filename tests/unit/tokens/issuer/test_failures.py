"""What is said when an issuer is not reached, or is not who it should be: the code, the place, and what to change."""

from __future__ import annotations

import http.client
import socket
import ssl
import time
import traceback
import warnings
from typing import TYPE_CHECKING

import pytest

from sidecar.keys.errors import SignCode
from sidecar.keys.openssl import ExternalKey
from sidecar.tls.contexts import ContextCode, ContextError, Credentials
from sidecar.tokens.codes import LOCAL, SourceCode, SourceError
from sidecar.tokens.issuer import failures
from sidecar.tokens.issuer.exchange import Contexts, Exchange, Request
from sidecar.tokens.issuer.failures import Circumstances
from sidecar.tokens.issuer.url import endpoint
from sidecar.tokens.issuer.wire import Stage
from tests.support.ca import HOUR
from tests.support.lent import TellingSigner, failing
from tests.support.raw import RESET, Raw
from tests.support.tls import NOW, PLANNER, TOOLS
from tests.support.web import AUTHORITY, OURS, STRANGER, Web, demanding, https, page, sending

if TYPE_CHECKING:
    from tests.support.ca import Identity
    from tests.support.tls import SSLContext

OK = sending(page())
SECRET = "hush-hush"


def failure(
    port: int,
    *,
    host: str = "localhost",
    scheme: str = "https",
    ca: bytes | None = AUTHORITY.pem,
    mutual: bool = False,
    credentials: Credentials = OURS,
) -> SourceError:
    where = endpoint(f"{scheme}://{host}:{port}/{SECRET}?{SECRET}", plaintext=True)
    request = Request(where, {"Authorization": SECRET}, SECRET.encode(), mutual)
    found = Exchange(request, Contexts(ca, credentials), 5, time.monotonic() + 10).run()
    assert isinstance(found, SourceError), found
    assert found.code in LOCAL or str(where) in str(found)
    assert SECRET not in "".join(traceback.format_exception(found)) + found.hint + repr(found)
    assert found.__cause__ is found.__context__ is None
    return found


def refused(identity: Identity, *, host: str = "localhost", ca: bytes | None = AUTHORITY.pem) -> tuple[str, str]:
    """What is said of a certificate, and what to do about it."""
    with Web(OK, https(identity)) as server:
        found = failure(server.port, host=host, ca=ca)
        assert server.requests == []
    assert found.code is SourceCode.TLS
    before, _, what = str(found).partition(f"the certificate of the issuer at {host}:{server.port} ")
    assert before == ""
    return what, found.hint


@pytest.mark.threat(21)
def test_threat_21_a_server_that_is_not_the_issuer_is_told_nothing() -> None:
    what, hint = refused(AUTHORITY.site("other.internal"))
    assert (what, "subjectAltName" in hint) == ("is not for this host", True)
    assert refused(AUTHORITY.site("localhost"), host="127.0.0.1") == (what, hint)
    what, hint = refused(STRANGER.site("localhost"))
    assert (what, "the file that `ca` names" in hint) == ("is issued by nobody we trust", True)
    what, hint = refused(AUTHORITY.site("localhost"), ca=None)
    assert (what, "name a PEM file" in hint) == ("is issued by nobody we trust", True)
    what, hint = refused(TOOLS)
    assert what == "is issued by nobody we trust"
    what, hint = refused(AUTHORITY.site("localhost", not_after=NOW - 60))
    assert (what, "renew" in hint) == ("has expired", True)
    what, hint = refused(AUTHORITY.site("localhost", not_before=NOW + HOUR))
    assert (what, "clocks" in hint) == ("is not valid yet", True)
    what, _ = refused(AUTHORITY.site("localhost", purposes=[]))
    assert what == "is refused (leaf_wrong_purpose, OpenSSL's number 26)"


def of_version(version: ssl.TLSVersion) -> SSLContext:
    context = https()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # it says of 1.1 what this test is about
        context.minimum_version = context.maximum_version = version
    context.set_ciphers("ALL:@SECLEVEL=0")
    return context


@pytest.mark.parametrize(("version", "mutual"), [("TLSv1_1", False), ("TLSv1_2", True)])
def test_an_old_version_is_named(version: str, mutual: bool) -> None:
    with Web(OK, of_version(ssl.TLSVersion[version])) as server:
        found = failure(server.port, mutual=mutual)
        assert server.requests == []
    assert found.code is SourceCode.TLS
    assert "TLSV1_ALERT_PROTOCOL_VERSION" in str(found)
    assert "TLS 1.3 where our certificate is shown" in found.hint


def test_a_server_that_speaks_no_tls() -> None:
    with Raw(lambda sock: sock.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n" if sock.recv(1) else b"")) as server:
        found = failure(server.port)
    assert found.code is SourceCode.TLS
    assert "not_tls" in str(found)
    assert "the port" in found.hint


def test_a_server_that_ends_in_the_handshake() -> None:
    def vanish(sock: socket.socket) -> None:
        sock.recv(65536)

    with Raw(vanish) as server:
        found = failure(server.port)
    assert found.code is SourceCode.TLS
    assert "truncated" in str(found)


def test_a_server_that_resets_in_the_handshake() -> None:
    def reset(sock: socket.socket) -> None:
        sock.recv(1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        sock.close()

    with Raw(reset) as server:
        found = failure(server.port)
    assert found.code is SourceCode.UNREACHABLE
    assert "in the TLS handshake" in str(found)


def test_a_server_that_wants_a_certificate_says_so_by_an_alert() -> None:
    """In TLS 1.3 it arrives after our handshake, when we may be sending already."""
    with Web(OK, demanding()) as server:
        found = failure(server.port)
        assert server.requests == []
    assert found.code is SourceCode.TLS
    assert "peer_alert_certificate_required" in str(found)
    assert "client_auth" in found.hint


def test_a_server_that_does_not_trust_our_certificate() -> None:
    with Web(OK, https(clients=STRANGER.pem)) as server:
        found = failure(server.port, mutual=True)
        assert server.requests == []
    assert found.code is SourceCode.TLS
    assert "peer_alert_unknown_ca" in str(found)
    assert "how this client is registered" in found.hint


def test_a_server_that_ends_without_a_word_may_refuse_us() -> None:
    with Web(lambda _: None, demanding()) as server:
        found = failure(server.port, mutual=True)
    assert found.code is SourceCode.BAD_ANSWER
    assert "how this client is registered" in found.hint


def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    found = failure(port)
    assert found.code is SourceCode.UNREACHABLE
    assert "while connecting: Connection refused" in str(found)
    assert failure(port, scheme="http", host="127.0.0.1").code is SourceCode.UNREACHABLE


def test_a_name_that_nobody_knows() -> None:
    found = failure(443, host="nobody.invalid")
    assert found.code is SourceCode.UNREACHABLE
    assert "while its name was looked up" in str(found)
    assert "name" in found.hint


def test_our_own_key_that_does_not_sign_is_no_fault_of_the_issuer() -> None:
    signer = TellingSigner(PLANNER, failing(SignCode.LOCKOUT))
    with Web(OK, demanding()) as server:
        found = failure(server.port, mutual=True, credentials=Credentials(PLANNER.chain_pem, ExternalKey(signer)))
        assert server.requests == []
    assert signer.asked
    assert found.code is SourceCode.SIGNING
    assert str(found) == "our key did not sign: as the test says"
    assert found.hint == "as the test hints"


def test_a_failed_signature_of_before_is_not_taken_for_a_new_one() -> None:
    """The thread keeps what a callback raised until it is asked."""
    signer = TellingSigner(PLANNER, failing(SignCode.LOCKOUT))
    key = ExternalKey(signer)
    with Web(OK, demanding()) as server:
        failure(server.port, mutual=True, credentials=Credentials(PLANNER.chain_pem, key))
        from sidecar.keys import openssl

        openssl._thread.failure = ValueError("of another handshake")
        with socket.create_server(("127.0.0.1", 0)) as free:
            port: int = free.getsockname()[1]
        found = failure(port, mutual=True, credentials=Credentials(PLANNER.chain_pem, key))
    assert found.code is SourceCode.UNREACHABLE


def test_credentials_that_openssl_does_not_take_are_ours_too() -> None:
    found = failure(443, mutual=True, credentials=Credentials(TOOLS.chain_pem, OURS.key))
    assert found.code is SourceCode.SIGNING
    assert "certificate" in str(found)


def test_a_damaged_file_of_authorities_trusts_nobody() -> None:
    where = Circumstances(endpoint("https://localhost"), mutual=False, own_roots=True)
    found = failures.of(ContextError(ContextCode.NO_AUTHORITY, "none", hint="write it"), Stage.LOOKUP, where)
    assert (found.code, str(found), found.hint) == (SourceCode.TLS, "none", "write it")
    with Web(OK, https()) as server:
        found = Exchange(Request(endpoint(server.url()), {}), Contexts(b"", None), 5, time.monotonic() + 10).run()  # type: ignore[assignment]  # it fails
        assert server.connections == 0
    assert found.code is SourceCode.TLS
    assert "`ca`" in found.hint


def test_a_reset_may_be_how_we_are_refused() -> None:
    def hint(stage: Stage, *, mutual: bool) -> str:
        where = Circumstances(endpoint("https://idp.internal"), mutual=mutual, own_roots=False)
        return failures.of(ConnectionResetError(104, "Connection reset by peer"), stage, where).hint

    assert "registered" in hint(Stage.WAIT, mutual=True)
    assert "registered" not in hint(Stage.WAIT, mutual=False) + hint(Stage.CONNECT, mutual=True)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (http.client.BadStatusLine(SECRET), SourceCode.BAD_ANSWER),
        (http.client.RemoteDisconnected(SECRET), SourceCode.BAD_ANSWER),
        (http.client.IncompleteRead(SECRET.encode()), SourceCode.BAD_ANSWER),
        (ValueError(SECRET), SourceCode.BAD_ANSWER),
        (MemoryError(SECRET), SourceCode.BAD_ANSWER),
        (UnicodeDecodeError("ascii", SECRET.encode(), 0, 1, SECRET), SourceCode.BAD_ANSWER),
        (ssl.SSLEOFError(8, SECRET), SourceCode.BAD_ANSWER),
        (ssl.SSLError(1, SECRET), SourceCode.TLS),
        (TimeoutError(SECRET), SourceCode.TIMEOUT),
        (ConnectionResetError(), SourceCode.UNREACHABLE),
        (OSError(SECRET), SourceCode.UNREACHABLE),
        (socket.gaierror(-2, "Name or service not known"), SourceCode.UNREACHABLE),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else str(value),
)
def test_no_text_of_an_error_is_used(error: Exception, code: SourceCode) -> None:
    where = Circumstances(endpoint(f"https://idp.internal/{SECRET}"), mutual=False, own_roots=False)
    found = failures.of(error, Stage.READ, where)
    assert found.code is code
    assert "idp.internal:443" in str(found)
    assert SECRET not in str(found) + found.hint + repr(found)
    assert found.hint or code is SourceCode.TLS
