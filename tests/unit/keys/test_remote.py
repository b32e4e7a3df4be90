"""A client of the signer service against services that lie, hang, break off and come back as others."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from sidecar.keys.errors import SignCode, SignError
from sidecar.keys.messages import MAX_BYTES, self_test_message
from sidecar.keys.remote import IDLE, RemoteSigner
from sidecar.keys.selftest import check_signature, self_test
from sidecar.keys.signer import Hash
from sidecar.keys.spec import RemoteKey
from sidecar.keys.wire import Done, PublicKeyRequest, Refusal, SignRequest, encode_reply, parse_request
from tests.support.ca import keypair, rsa_keypair
from tests.support.eventually import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sidecar.keys.wire import Request

KEY = keypair("a remote key")
OTHER = keypair("another remote key")
SHORT = 0.8
LONG = 20.0
NOBODY = 65534


def spki(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def honest(request: Request, key: ec.EllipticCurvePrivateKey = KEY) -> bytes | None:
    if isinstance(request, SignRequest):
        return encode_reply(Done(key.sign(request.message, ec.ECDSA(request.hash_.algorithm))))
    return encode_reply(Done(spki(key)))


class Fake:
    """A service whose every reply is the test's: bytes, None to close. ``reply`` may be replaced at any time."""

    def __init__(self, path: Path, reply: Callable[[Request], bytes | None] = honest) -> None:
        self.path = path
        self.reply = reply
        self.accepted = 0
        #: Octets that are taken in at once.
        self.piece = 4096
        self.open: list[socket.socket] = []
        #: Set: whatever waits in a reply goes on.
        self.over = threading.Event()
        self._start()

    def _start(self) -> None:
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.path))
        self._listener.listen(64)
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:  # shut down
                return
            self.accepted += 1
            self.open.append(sock)
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        data = b""
        try:
            while more := sock.recv(self.piece):
                data += more
                request = parse_request(data)
                if request is None:
                    continue
                data = b""
                answer = self.reply(request)
                if answer is None:
                    break
                sock.sendall(answer)
        except OSError:  # the client left, or the test ended
            return
        finally:
            self.open.remove(sock)
            sock.close()

    def stop(self) -> None:
        """As a process that was killed: the file stays, nobody listens, every connection is gone."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for sock in list(self.open):
            with suppress(OSError):  # its thread was faster
                sock.shutdown(socket.SHUT_RDWR)
        eventually(lambda: not self.open, "the fake service to be gone")

    def restart(self) -> None:
        self.stop()
        self.path.unlink()
        self._start()

    def close(self) -> None:
        self.over.set()
        self.stop()


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[Fake]:
    made = Fake(tmp_path / "s.sock")
    yield made
    made.close()


def client(path: Path, limit: float = LONG) -> RemoteSigner:
    return RemoteSigner(RemoteKey(path), limit=limit)


@pytest.fixture
def signer(fake: Fake) -> Iterator[RemoteSigner]:
    made = client(fake.path)
    yield made
    made.close()


@pytest.fixture
def hasty(fake: Fake) -> Iterator[RemoteSigner]:
    """A signer with little time."""
    made = client(fake.path, SHORT)
    yield made
    made.close()


def refused(call: Callable[[], object]) -> SignError:
    with pytest.raises(SignError) as caught:
        call()
    return caught.value


def descriptors() -> int:
    return len(list(Path("/dev/fd").iterdir()))


def test_it_signs_over_one_connection(fake: Fake, signer: RemoteSigner) -> None:
    assert signer.public_key == KEY.public_key()
    for _ in range(5):
        self_test(signer)
    assert fake.accepted == 1


@pytest.mark.parametrize("there", ["nothing", "stale", "file"])
def test_no_service(tmp_path: Path, there: str) -> None:
    path = tmp_path / "s.sock"
    if there == "stale":
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(path))
    elif there == "file":
        path.write_text("x")
    error = refused(lambda: client(path))
    assert error.code is SignCode.UNAVAILABLE
    assert f"sidecar signer --listen unix:{path}" in error.hint


@pytest.mark.parametrize(
    "garbage",
    [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\0", b"\1\0\xff\xff", b"\1\1\0\1x", encode_reply(Done(b"x")) + b"x"],
)
def test_garbage(fake: Fake, signer: RemoteSigner, garbage: bytes) -> None:
    fake.reply = lambda _: garbage
    assert refused(lambda: self_test(signer)).code is SignCode.FAILED
    assert refused(lambda: client(fake.path)).code is SignCode.FAILED
    fake.reply = honest
    self_test(signer)
    assert fake.accepted == 3, "a connection that brought garbage is not used again"


@pytest.mark.parametrize(
    "key",
    [
        b"no key at all",
        spki(KEY)[:-1],
        spki(keypair("a third", curve=ec.SECP521R1)),
        rsa_keypair().public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
    ],
    ids=["text", "cut", "P-521", "RSA"],
)
def test_a_public_key_that_is_none_of_ours(fake: Fake, key: bytes) -> None:
    fake.reply = lambda _: encode_reply(Done(key))
    assert refused(lambda: client(fake.path)).code is SignCode.FAILED


@pytest.mark.parametrize(
    "payload", [b"x", KEY.sign(b"another message", ec.ECDSA(Hash.SHA256.algorithm))], ids=["text", "of another message"]
)
def test_a_signature_that_is_none(fake: Fake, signer: RemoteSigner, payload: bytes) -> None:
    fake.reply = lambda _: encode_reply(Done(payload))
    assert refused(lambda: signer.sign(self_test_message(), Hash.SHA256)).code is SignCode.BAD_SIGNATURE


def test_a_signature_by_another_key(fake: Fake, signer: RemoteSigner) -> None:
    fake.reply = lambda request: honest(request, OTHER)
    assert refused(lambda: signer.sign(self_test_message(), Hash.SHA256)).code is SignCode.BAD_SIGNATURE


@pytest.mark.parametrize("code", SignCode)
def test_what_the_service_says(fake: Fake, signer: RemoteSigner, code: SignCode) -> None:
    fake.reply = lambda _: encode_reply(Refusal(code))
    error = refused(lambda: self_test(signer))
    # That its key is closed does not close ours: it may come back.
    assert error.code is (SignCode.UNAVAILABLE if code is SignCode.CLOSED else code)
    fake.reply = honest
    self_test(signer)
    assert fake.accepted == 1, "a refusal is a reply like any other"


def test_a_service_that_hangs(fake: Fake, hasty: RemoteSigner) -> None:
    def hang(request: Request) -> bytes | None:
        fake.over.wait()
        return None

    fake.reply = hang
    began = time.monotonic()
    assert refused(lambda: self_test(hasty)).code is SignCode.TIMEOUT
    assert refused(lambda: client(fake.path, SHORT)).code is SignCode.TIMEOUT
    assert 2 * SHORT <= time.monotonic() - began < LONG
    fake.reply = honest
    self_test(hasty)


def test_the_limit_is_for_the_whole_exchange(fake: Fake, hasty: RemoteSigner) -> None:
    """Each octet comes well within the limit; the reply never ends."""

    def drip(request: Request) -> bytes | None:
        fake.open[-1].sendall(b"\1\0\x0f\xf0")
        while not fake.over.wait(SHORT / 10):
            fake.open[-1].sendall(b"x")
        return None

    fake.reply = drip
    assert refused(lambda: self_test(hasty)).code is SignCode.TIMEOUT


def test_a_queue_that_is_full(tmp_path: Path) -> None:
    path = tmp_path / "s.sock"
    waiting = []
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(0)
        while True:
            waiting.append(socket.socket(socket.AF_UNIX))
            waiting[-1].setblocking(False)
            if waiting[-1].connect_ex(str(path)) != 0:
                break
        assert refused(lambda: client(path, SHORT)).code is SignCode.TIMEOUT
        for each in waiting:
            each.close()


@pytest.mark.parametrize(
    "sent", [b"", b"\1", encode_reply(Done(bytes(70)))[:-1]], ids=["none", "an octet", "nearly all"]
)
def test_a_reply_that_breaks_off(fake: Fake, signer: RemoteSigner, sent: bytes) -> None:
    def half(request: Request) -> bytes | None:
        fake.open[-1].sendall(sent)
        return None

    fake.reply = half
    error = refused(lambda: self_test(signer))
    assert error.code is SignCode.UNAVAILABLE
    assert fake.accepted == 2, "once more on a fresh connection, and no more"
    assert refused(lambda: client(fake.path)).code is SignCode.UNAVAILABLE


def test_a_service_that_ends_what_is_idle(fake: Fake, signer: RemoteSigner) -> None:
    for connections in range(2, 6):
        for sock in list(fake.open):
            sock.shutdown(socket.SHUT_RDWR)
        eventually(lambda: not fake.open, "the connections to be gone")
        self_test(signer)
        assert fake.accepted == connections


def test_a_restart(fake: Fake, signer: RemoteSigner) -> None:
    fake.restart()
    self_test(signer)
    fake.stop()
    assert refused(lambda: self_test(signer)).code is SignCode.UNAVAILABLE
    fake.path.unlink()
    fake._start()
    self_test(signer)


def test_a_restart_with_another_key(fake: Fake, signer: RemoteSigner) -> None:
    asked: list[Request] = []

    def other(request: Request) -> bytes | None:
        asked.append(request)
        return honest(request, OTHER)

    fake.reply = other
    fake.restart()
    for _ in range(3):
        assert refused(lambda: self_test(signer)).code is SignCode.NO_KEY
    assert asked == [PublicKeyRequest()] * 3, "it is given nothing to sign"
    assert signer.public_key == KEY.public_key()
    fake.reply = honest
    self_test(signer)


def test_after_close(fake: Fake, signer: RemoteSigner) -> None:
    assert len(fake.open) == 1
    signer.close()
    eventually(lambda: not fake.open, "its connection to be closed")
    assert refused(lambda: self_test(signer)).code is SignCode.CLOSED
    assert fake.accepted == 1


def test_closed_while_it_signs(fake: Fake, signer: RemoteSigner) -> None:
    asked = threading.Event()

    def slow(request: Request) -> bytes | None:
        asked.set()
        fake.over.wait()
        return honest(request)

    fake.reply = slow
    outcome: list[object] = []
    thread = threading.Thread(target=lambda: outcome.append(signer.sign(self_test_message(), Hash.SHA256)), daemon=True)
    thread.start()
    assert asked.wait(LONG)
    signer.close()
    fake.over.set()
    thread.join(LONG)
    assert len(outcome) == 1, "what was begun is ended"
    eventually(lambda: not fake.open, "the connection that was in use to be closed")


def test_many_threads_sign_at_once_and_few_connections_stay(fake: Fake, signer: RemoteSigner) -> None:
    count = IDLE + 6
    together = threading.Barrier(count)

    def reply(request: Request) -> bytes | None:
        if isinstance(request, SignRequest):
            together.wait(LONG)  # none is answered before all have asked
        return honest(request)

    fake.reply = reply
    done: list[bytes] = []
    threads = [
        threading.Thread(target=lambda: done.append(signer.sign(self_test_message(), Hash.SHA256)), daemon=True)
        for _ in range(count)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LONG)
    assert len(done) == count
    eventually(lambda: len(fake.open) == IDLE, "the connections that are too many to be closed")


def test_no_failure_leaves_a_descriptor_behind(fake: Fake, signer: RemoteSigner) -> None:
    before = descriptors()
    for reply in (lambda _: None, lambda _: b"\0", lambda _: encode_reply(Done(b"x")), lambda r: honest(r, OTHER)):
        fake.reply = reply
        for _ in range(10):
            refused(lambda: self_test(signer))
            fake.restart()
    fake.stop()
    for _ in range(10):
        refused(lambda: self_test(signer))
    fake.path.unlink()
    fake._start()
    eventually(lambda: descriptors() <= before, "descriptors to be closed")


@pytest.mark.parametrize("piece", [4096, 1], ids=["pieces", "an octet at a time"])
def test_the_longest_message(fake: Fake, signer: RemoteSigner, piece: int) -> None:
    fake.piece = piece
    message = b"x" * MAX_BYTES
    asked: list[Request] = []

    def reply(request: Request) -> bytes | None:
        asked.append(request)
        return honest(request)

    fake.reply = reply
    signature = signer.sign(message, Hash.SHA256)
    check_signature(KEY.public_key(), signature, message, Hash.SHA256)
    assert asked == [SignRequest(Hash.SHA256, message)]


def test_a_service_that_takes_nothing_more_in(tmp_path: Path) -> None:
    """The kernel's buffer is full before the request is out: the limit is for that too."""
    over, arrived = threading.Event(), bytearray()

    def serve(listener: socket.socket) -> None:
        sock, _ = listener.accept()
        with sock:
            sock.recv(4096)
            sock.sendall(encode_reply(Done(spki(KEY))))
            over.wait(LONG)
            while more := sock.recv(4096):
                arrived.extend(more)

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s.sock"))
        listener.listen()
        thread = threading.Thread(target=serve, args=(listener,), daemon=True)
        thread.start()
        signer = client(tmp_path / "s.sock", SHORT)
        (link,) = signer._idle
        link._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)  # the least that there is
        assert refused(lambda: signer.sign(bytes(MAX_BYTES), Hash.SHA256)).code is SignCode.TIMEOUT
        over.set()
        thread.join(LONG)
    assert 0 < len(arrived) < MAX_BYTES, "the test would say nothing"


def test_a_refusal_says_what_would_be_signed(fake: Fake, signer: RemoteSigner) -> None:
    fake.reply = lambda _: encode_reply(Refusal(SignCode.REFUSED))
    error = refused(lambda: signer.sign(b"eyJ", Hash.SHA256))
    assert "--spiffe-id" in error.hint
    assert "--client-assertion" in error.hint


def test_a_message_that_is_too_long_is_not_even_sent(fake: Fake, signer: RemoteSigner) -> None:
    asked: list[Request] = []
    fake.reply = asked.append
    message = b"secret" * MAX_BYTES
    error = refused(lambda: signer.sign(message, Hash.SHA256))
    assert error.code is SignCode.REFUSED
    assert "secret" not in f"{error} {error.hint}"
    assert asked == []
