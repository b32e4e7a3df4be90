"""Handshakes whose keys OpenSSL does not have: who signs what, and what a failure looks like.

How long a key lives is in test_openssl_lifetime.py, what goes on beside such keys in test_openssl_beside.py, a signature
without a handshake in test_openssl_signing.py, and what happens to whole processes (leaks, exits, configurations) in
test_openssl_processes.py.
"""

from __future__ import annotations

import _ssl
import ctypes
import ssl
import threading
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from sidecar.keys import openssl
from sidecar.keys.errors import SignCode, SignError
from sidecar.keys.messages import Recognisers
from sidecar.keys.openssl import ExternalKey
from sidecar.keys.signer import Hash, hash_for
from sidecar.tls.engine import ALERT_BYTES, State, TlsEngine
from sidecar.tls.failure import SigningCode, SigningFailedError, TlsCode, TlsError
from sidecar.tls.handover import path_holding
from tests.support.ca import HOUR, Ca, Identity, keypair
from tests.support.lent import (
    PLANNER_384,
    TOOLS_384,
    Lent,
    TellingSigner,
    client_of,
    failing,
    leaving_nothing,
    lent,
    queued_error,
    server_of,
    talk,
)
from tests.support.tls import (
    CA,
    INTERMEDIATE,
    NOW,
    PLANNER,
    TOOLS,
    Foreign,
    Ours,
    SSLContext,
    connected,
    converse,
    foreign_context,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


foreign = pytest.mark.needs("pyopenssl")
curves = pytest.mark.parametrize(
    ("planner", "tools"),
    [(PLANNER, TOOLS), (PLANNER, TOOLS_384), (PLANNER_384, TOOLS), (PLANNER_384, TOOLS_384)],
    ids=["256-256", "256-384", "384-256", "384-384"],
)


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    with leaving_nothing():
        yield


class TestHandshake:
    @curves
    @pytest.mark.parametrize("chunk", [None, 1], ids=["whole", "byte-by-byte"])
    def test_each_end_signs_once(self, planner: Identity, tools: Identity, chunk: int | None) -> None:
        pair = lent(planner, tools)
        client, server = connected(pair.client, pair.server, chunk=chunk)
        talk(client, server)
        assert client.engine.peer is not None
        assert server.engine.peer is not None
        assert (client.engine.peer.id, server.engine.peer.id) == (tools.id, planner.id)
        for signer, side in ((pair.planner, b"client"), (pair.tools, b"server")):
            (asked,) = signer.asked
            assert asked.hash is hash_for(signer.public_key)
            # The whole content that RFC 8446 4.4.3 defines, never a digest of it.
            assert Recognisers().recognise(asked.message, 0) == "tls13-certificate-verify"
            assert asked.message.startswith(b" " * 64 + b"TLS 1.3, " + side + b" CertificateVerify\0")
            assert len(asked.message) == 98 + Hash.SHA384.algorithm.digest_size
        assert client.engine.cipher == "TLS_AES_256_GCM_SHA384"

    def test_every_handshake_signs_something_else(self) -> None:
        pair = lent()
        for _ in range(5):
            talk(*connected(pair.client, pair.server))
        asked = [*pair.planner.asked, *pair.tools.asked]
        assert len({message for message, _ in asked}) == len(asked) == 10

    @curves
    def test_a_resumed_one_signs_nothing(self, planner: Identity, tools: Identity) -> None:
        pair = lent(planner, tools)
        first, served = connected(pair.client, pair.server)
        talk(first, served)
        session = first.engine.session()
        assert session is not None
        for _ in range(3):
            again, served = connected(pair.client, pair.server, session=session)
            talk(again, served)
            assert (again.engine.resumed, served.engine.resumed) == (True, True)
            session = again.engine.session()
        assert (len(pair.planner.asked), len(pair.tools.asked)) == (1, 1)

    def test_without_resumption_every_one_signs(self) -> None:
        planner, tools = TellingSigner(PLANNER), TellingSigner(TOOLS)
        client_context = client_of(PLANNER, ExternalKey(planner), resumption=False)
        server_context = server_of(TOOLS, ExternalKey(tools), resumption=False)
        for count in (1, 2):
            client, server = connected(client_context, server_context)
            talk(client, server)
            assert client.engine.session() is None
            assert (len(planner.asked), len(tools.asked)) == (count, count)

    @curves
    def test_a_key_in_software_at_the_other_end(self, planner: Identity, tools: Identity) -> None:
        pair = lent(planner, tools)
        talk(*connected(pair.client, server_of(tools)))
        talk(*connected(client_of(planner), pair.server))
        assert (len(pair.planner.asked), len(pair.tools.asked)) == (1, 1)

    @foreign
    @curves
    def test_another_openssl_at_the_other_end(self, planner: Identity, tools: Identity) -> None:
        pair = lent(planner, tools)
        client = Foreign(foreign_context(planner, CA.certificate), server=False)
        server = Ours(TlsEngine(pair.server))
        converse(client, server)
        assert (client.error, client.done, server.open) == (None, True, True)
        caller = Ours(TlsEngine(pair.client, server_name="tools.internal"))
        called = Foreign(foreign_context(tools, CA.certificate), server=True)
        converse(caller, called)
        assert (caller.open, called.error, called.done) == (True, None, True)
        assert (len(pair.planner.asked), len(pair.tools.asked)) == (1, 1)

    @pytest.mark.parametrize("cipher", ["TLS_AES_128_GCM_SHA256", "TLS_CHACHA20_POLY1305_SHA256"])
    def test_a_cipher_suite_with_the_short_hash(self, cipher: str) -> None:
        if not hasattr(SSLContext, "set_ciphersuites"):
            self._only(cipher, pair := lent())
        else:
            (pair := lent()).server.sslcontext.set_ciphersuites(cipher)
        client, server = connected(pair.client, pair.server)
        talk(client, server)
        assert client.engine.cipher == cipher
        assert len(pair.planner.asked[0].message) == 98 + 32

    @staticmethod
    def _only(cipher: str, pair: Lent) -> None:
        """Before Python 3.15 nothing chooses the cipher suite of TLS 1.3."""
        library = ctypes.CDLL(_ssl.__file__)
        # PySSLContext begins with the object's head; then comes the SSL_CTX*.
        pointer = ctypes.c_void_p.from_address(id(pair.server.sslcontext) + object.__basicsize__)
        library.SSL_CTX_set_ciphersuites.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
        assert library.SSL_CTX_set_ciphersuites(pointer, cipher.encode()) == 1


def in_threads(*work: Callable[[], None]) -> None:
    """Runs all at once; fails where one does."""
    failures: list[BaseException] = []
    gate = threading.Barrier(len(work))

    def run(one: Callable[[], None]) -> None:
        try:
            gate.wait(60)
            one()
        except BaseException as error:  # noqa: BLE001 - raised below
            failures.append(error)

    threads = [threading.Thread(target=run, args=(one,), daemon=True) for one in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(90)
    assert not any(thread.is_alive() for thread in threads)
    if failures:
        raise failures[0]


class TestThreads:
    EACH = 40

    def test_many_with_the_same_keys(self) -> None:
        pair = lent()

        def work() -> None:
            for _ in range(self.EACH):
                talk(*connected(pair.client, pair.server))

        in_threads(*[work] * 8)
        for signer in (pair.planner, pair.tools):
            assert len(signer.asked) == 8 * self.EACH
            assert len({message for message, _ in signer.asked}) == 8 * self.EACH

    def test_many_with_a_key_each(self) -> None:
        names = [f"/agent/tools/{number}" for number in range(8)]
        pairs = [lent(tools=INTERMEDIATE.leaf(name, lifetime=HOUR)) for name in names]

        def work(pair: Lent, name: str) -> Callable[[], None]:
            def run() -> None:
                for _ in range(self.EACH):
                    client, server = connected(pair.client, pair.server)
                    talk(client, server)
                    assert client.engine.peer is not None
                    assert client.engine.peer.id.path == name

            return run

        in_threads(*map(work, pairs, names))
        assert [len(pair.tools.asked) for pair in pairs] == [self.EACH] * 8
        assert [len(pair.planner.asked) for pair in pairs] == [self.EACH] * 8

    def test_a_failure_is_told_to_its_own_handshake_alone(self) -> None:
        pair = lent()
        codes: list[SignCode | None] = [SignCode.TIMEOUT, None, SignCode.LOCKOUT, None, SignCode.FULL, None]

        def work(code: SignCode | None) -> Callable[[], None]:
            signer = TellingSigner(TOOLS, None if code is None else failing(code))
            context = server_of(TOOLS, ExternalKey(signer))

            def run() -> None:
                for _ in range(self.EACH):
                    client, server = connected(pair.client, context)
                    if code is None:
                        talk(client, server)
                    else:
                        assert server.code == code

            return run

        in_threads(*map(work, codes))

    def test_contexts_made_and_dropped_while_others_shake_hands(self) -> None:
        pair = lent()

        def shake() -> None:
            for _ in range(self.EACH):
                talk(*connected(pair.client, pair.server))

        def rotate() -> None:
            for _ in range(self.EACH):
                server_of(TOOLS, ExternalKey(TellingSigner(TOOLS)))

        in_threads(shake, rotate, shake, rotate)

    @pytest.mark.parametrize("code", [None, SignCode.TIMEOUT])
    def test_a_step_in_another_thread(self, code: SignCode | None) -> None:
        """The owner hears of a failure in its own thread, and what is left behind in the other one confuses nobody."""
        pair = lent()
        pair.tools.answer = failing(code) if code else None
        client, server = Ours(TlsEngine(pair.client)), Ours(TlsEngine(pair.server))
        while server.engine.state is State.HANDSHAKE:
            client.turn()
            server.receive(client.to_send())
            in_threads(server.engine.work)
            server.turn()
            client.receive(server.to_send())
        assert server.code == (code or "")


def raising(error: BaseException) -> Callable[[bytes, Hash], Any]:
    def answer(_message: bytes, _hash: Hash) -> Any:
        raise error

    return answer


def told(code: SignCode) -> Callable[[TellingSigner], Any]:
    return lambda _: failing(code)


def giving(change: Callable[[TellingSigner, bytes, Hash], Any]) -> Callable[[TellingSigner], Any]:
    return lambda signer: lambda message, hash_: change(signer, message, hash_)


def longer(signature: bytes) -> bytes:
    """The same with a zero byte before the first number, which DER does not allow."""
    assert signature[1] < 126
    assert signature[3] < 126
    return bytes((0x30, signature[1] + 1, 2, signature[3] + 1, 0)) + signature[4:]


STRANGER = keypair("nobody's")

#: What is wrong with the signer -> (what it does, the code that the log gets)
CAUSES: dict[str, tuple[Callable[[TellingSigner], Any], str]] = {
    **{str(code): (told(code), code) for code in SignCode},
    "exception": (lambda _: raising(ZeroDivisionError("secret")), SigningCode.FAILED),
    "interrupt": (lambda _: raising(KeyboardInterrupt("secret")), SigningCode.FAILED),
    "exit": (lambda _: raising(SystemExit("secret")), SigningCode.FAILED),
    "none": (giving(lambda *_: None), SigningCode.FAILED),
    "text": (giving(lambda *_: "secret"), SigningCode.FAILED),
    "nothing": (giving(lambda *_: b""), SignCode.BAD_SIGNATURE),
    "garbage": (giving(lambda *_: b"secret"), SignCode.BAD_SIGNATURE),
    "too-much": (giving(lambda *_: bytes(100_000)), SignCode.BAD_SIGNATURE),
    "appended": (giving(lambda s, message, hash_: s.right(message, hash_) + b"\0"), SignCode.BAD_SIGNATURE),
    "no-der": (giving(lambda s, message, hash_: longer(s.right(message, hash_))), SignCode.BAD_SIGNATURE),
    "cut": (giving(lambda s, message, hash_: s.right(message, hash_)[:-1]), SignCode.BAD_SIGNATURE),
    "zeros": (giving(lambda *_: bytes.fromhex("3006020100020100")), SignCode.BAD_SIGNATURE),
    "other-message": (giving(lambda s, message, hash_: s.right(message + b"!", hash_)), SignCode.BAD_SIGNATURE),
    "other-hash": (giving(lambda s, message, _: s.right(message, Hash.SHA384)), SignCode.BAD_SIGNATURE),
    "other-key": (
        giving(lambda _, message, hash_: STRANGER.sign(message, ec.ECDSA(hash_.algorithm))),
        SignCode.BAD_SIGNATURE,
    ),
}
causes = pytest.mark.parametrize(("misbehave", "code"), CAUSES.values(), ids=CAUSES)


def demand_cause(end: Ours, code: str) -> None:
    """This end says why its own key did not sign, and nothing that it should not."""
    assert isinstance(end.error, SigningFailedError)
    assert end.error.code == code
    assert end.engine.state is State.FAILED
    assert "secret" not in f"{end.error} {end.error.hint}"
    assert "EVP" not in str(end.error)
    if isinstance(code, SignCode) and "as the test says" in str(end.error):
        assert end.error.hint == "as the test hints"


def demand_unharmed(pair: Lent) -> None:
    """Whatever failed before in this thread: the next things that are done with OpenSSL in it go as they should."""
    assert queued_error() == 0
    pair.tools.answer = pair.planner.answer = None
    bare = SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    bare.load_verify_locations(cadata=CA.pem.decode())
    with path_holding(PLANNER.chain_pem) as chain, path_holding(PLANNER.key_pem) as key:
        bare.load_cert_chain(chain, key)
    with pytest.raises(ssl.SSLError, match=r"NO_START_LINE|no start line|NOT_ENOUGH_DATA"):
        bare.load_verify_locations(cadata="nothing")
    talk(*connected(pair.client, pair.server))


class TestFailure:
    @causes
    def test_at_the_server(self, misbehave: Callable[[TellingSigner], Any], code: str) -> None:
        pair = lent()
        pair.tools.answer = misbehave(pair.tools)
        client, server = connected(pair.client, pair.server)
        demand_cause(server, code)
        assert server.error.alert_sent  # type: ignore[union-attr]  # just seen
        assert client.code == TlsCode.ALERT_INTERNAL_ERROR
        assert client.engine.peer is None
        assert not pair.planner.asked
        demand_unharmed(pair)

    @causes
    def test_at_the_client(self, misbehave: Callable[[TellingSigner], Any], code: str) -> None:
        """The server is not proven to us yet: it gets no part of our certificate."""
        pair = lent()
        pair.planner.answer = misbehave(pair.planner)
        client, server = connected(pair.client, pair.server)
        demand_cause(client, code)
        hello = 5 + int.from_bytes(client.sent[3:5], "big")
        assert len(client.sent) - hello <= ALERT_BYTES
        assert server.engine.peer is None
        assert client.engine.peer is None
        demand_unharmed(pair)

    def test_what_a_device_leaves_in_the_queue_of_errors_is_not_taken_for_the_handshakes(self) -> None:
        """Some use the same OpenSSL, such as software tokens."""
        pair = lent()
        library = ctypes.CDLL(_ssl.__file__)

        def leaving(signer: TellingSigner) -> Callable[[bytes, Hash], bytes]:
            def answer(message: bytes, hash_: Hash) -> bytes:
                assert not library.BIO_new_file(b"/nowhere/at/all", b"r")
                assert queued_error()
                return signer.right(message, hash_)

            return answer

        library.BIO_new_file.restype = ctypes.c_void_p
        pair.tools.answer, pair.planner.answer = leaving(pair.tools), leaving(pair.planner)
        talk(*connected(pair.client, pair.server))
        assert queued_error() == 0

    def test_a_stale_cause_is_not_taken_for_that_of_the_next_failure(self) -> None:
        stranger = Ca(key="stranger", now=NOW).leaf("/agent/planner/1", lifetime=HOUR)
        server_context, client_context = lent().server, client_of(stranger)
        openssl._thread.failure = SignError(SignCode.TIMEOUT, "long ago")
        _, server = connected(client_context, server_context)
        assert isinstance(server.error, TlsError)
        assert server.code == TlsCode.AUTHORITY_UNKNOWN

    def test_a_cause_is_told_once(self) -> None:
        key = ExternalKey(TellingSigner(TOOLS))
        openssl._thread.failure = error = SignError(SignCode.TIMEOUT, "now")
        assert key.take_failure() is error
        assert key.take_failure() is None
