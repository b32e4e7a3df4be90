"""One signature by way of OpenSSL, whole as in a self-test, and in pieces: what is asked of the signer, and what is refused."""

from __future__ import annotations

import _ssl
import ctypes as ct
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from sidecar.keys import openssl
from sidecar.keys.errors import SignCode, SignError
from sidecar.keys.messages import self_test_message
from sidecar.keys.openssl import MESSAGE_BYTES, ExternalKey, ThroughOpenSsl
from sidecar.keys.selftest import check_signature, self_test
from sidecar.keys.signer import Hash
from tests.support.ca import Identity, keypair
from tests.support.lent import (
    TOOLS_384,
    TellingSigner,
    failing,
    leaving_nothing,
    queued_error,
)
from tests.support.tls import PLANNER, TOOLS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    openssl.install()
    with leaving_nothing():
        yield


class TestThroughOpenSsl:
    @pytest.mark.parametrize("identity", [TOOLS, TOOLS_384], ids=["256", "384"])
    def test_one_signature_by_the_signer(self, identity: Identity) -> None:
        signer = TellingSigner(identity)
        through = ThroughOpenSsl(ExternalKey(signer))
        self_test(through)
        assert len(signer.asked) == 1
        for hash_ in Hash:
            message = self_test_message()
            check_signature(signer.public_key, through.sign(message, hash_), message, hash_)
            assert signer.asked[-1] == (message, hash_)
        assert through.protection is signer.protection
        through.close()
        self_test(through)

    @pytest.mark.parametrize("code", SignCode)
    def test_the_signer_fails(self, code: SignCode) -> None:
        signer = TellingSigner(TOOLS, failing(code))
        with pytest.raises(SignError) as caught:
            self_test(ThroughOpenSsl(ExternalKey(signer)))
        assert caught.value.code is code
        assert caught.value.hint == "as the test hints"
        assert queued_error() == 0
        signer.answer = None
        self_test(ThroughOpenSsl(ExternalKey(signer)))

    def test_the_signer_has_another_key(self) -> None:
        signer = TellingSigner(TOOLS)
        signer.key = keypair("another")
        with pytest.raises(SignError) as caught:
            self_test(ThroughOpenSsl(ExternalKey(signer)))
        assert caught.value.code is SignCode.BAD_SIGNATURE

    def test_the_longest_message(self) -> None:
        signer = TellingSigner(TOOLS)
        message = bytes(MESSAGE_BYTES)
        signature = ThroughOpenSsl(ExternalKey(signer)).sign(message, Hash.SHA256)
        check_signature(signer.public_key, signature, message, Hash.SHA256)

    @pytest.mark.parametrize("size", [MESSAGE_BYTES + 1, 100 * MESSAGE_BYTES])
    def test_a_longer_message_is_refused(self, size: int) -> None:
        signer = TellingSigner(TOOLS)
        with pytest.raises(SignError) as caught:
            ThroughOpenSsl(ExternalKey(signer)).sign(bytes(size), Hash.SHA256)
        assert caught.value.code is SignCode.REFUSED
        assert not signer.asked
        assert queued_error() == 0


class Piecemeal:
    """A message that is handed to OpenSSL in pieces, by functions of its own that TLS has no use for."""

    def __init__(self, signer: TellingSigner) -> None:
        library = openssl._installed[0][0]
        self.key = ExternalKey(signer)
        self._borrower: Callable[[], None] | None = lambda: None
        pem_text = self.key.lend(self._borrower)
        self._library = library
        self._bio = library.memory(pem_text, len(pem_text))
        self.pointer = library.read_private(self._bio, None, None, None)
        self._context = library.new_digest()
        crypto = ct.CDLL(_ssl.__file__)
        self._update, self._final = crypto.EVP_DigestSignUpdate, crypto.EVP_DigestSignFinal
        self._update.argtypes = [ct.c_void_p, ct.c_char_p, ct.c_size_t]
        self._final.argtypes = [ct.c_void_p, ct.c_char_p, ct.POINTER(ct.c_size_t)]

    def begin(self, digest: bytes | None = b"SHA256") -> int:
        result: int = self._library.begin_signature(self._context, None, digest, None, None, self.pointer, None)
        return result

    def update(self, piece: bytes) -> int:
        result: int = self._update(self._context, piece, len(piece))
        return result

    def final(self) -> bytes | None:
        """Signs what came until now: OpenSSL makes a copy of the signature under way for it."""
        buffer, size = ct.create_string_buffer(256), ct.c_size_t(256)
        return buffer.raw[: size.value] if self._final(self._context, buffer, ct.byref(size)) == 1 else None

    def close(self) -> None:
        self._library.free_digest(self._context)
        self._library.free_key(self.pointer)
        self._library.free_bio(self._bio)
        self._library.clear_errors()
        self._borrower = None


@pytest.fixture
def signer() -> TellingSigner:
    return TellingSigner(TOOLS)


@pytest.fixture
def piecemeal(signer: TellingSigner) -> Iterator[Piecemeal]:
    made = Piecemeal(signer)
    yield made
    made.close()


class TestPieces:
    def test_they_are_one_message(self, signer: TellingSigner, piecemeal: Piecemeal) -> None:
        assert piecemeal.begin() == 1
        for piece in (b"one", b"", b"\0two", b"three"):
            assert piecemeal.update(piece) == 1
        signature = piecemeal.final()
        assert signature is not None
        check_signature(signer.public_key, signature, b"one\0twothree", Hash.SHA256)
        assert [message for message, _ in signer.asked] == [b"one\0twothree"]

    def test_the_digest_of_the_curve_is_taken_where_none_is_named(
        self, signer: TellingSigner, piecemeal: Piecemeal
    ) -> None:
        assert piecemeal.begin(None) == 1
        assert piecemeal.update(b"message") == 1
        assert piecemeal.final() is not None
        assert signer.asked[-1].hash is Hash.SHA256

    def test_together_they_are_as_long_as_one_may_be(self, signer: TellingSigner, piecemeal: Piecemeal) -> None:
        assert piecemeal.begin() == 1
        assert piecemeal.update(bytes(MESSAGE_BYTES - 1)) == 1
        assert piecemeal.update(bytes(2)) != 1
        failure = piecemeal.key.take_failure()
        assert isinstance(failure, SignError)
        assert failure.code is SignCode.REFUSED
        assert piecemeal.update(b"!") == 1
        assert piecemeal.final() is not None
        assert len(signer.asked[-1].message) == MESSAGE_BYTES

    @pytest.mark.parametrize("digest", [b"SHA1", b"SHA512", b"MD5"])
    def test_no_other_hash(self, signer: TellingSigner, piecemeal: Piecemeal, digest: bytes) -> None:
        assert piecemeal.begin(digest) != 1
        assert not signer.asked
        piecemeal.key.take_failure()

    def test_the_private_half_is_not_given_out(self, piecemeal: Piecemeal) -> None:
        crypto = ct.CDLL(_ssl.__file__)
        number, out = ct.c_void_p(), ct.c_void_p()
        crypto.EVP_PKEY_get_bn_param.argtypes = [ct.c_void_p, ct.c_char_p, ct.POINTER(ct.c_void_p)]
        assert crypto.EVP_PKEY_get_bn_param(piecemeal.pointer, b"priv", ct.byref(number)) != 1
        crypto.i2d_PrivateKey.argtypes = [ct.c_void_p, ct.POINTER(ct.c_void_p)]
        assert crypto.i2d_PrivateKey(piecemeal.pointer, ct.byref(out)) <= 0
        # and what may be had is the public half
        spki = ct.c_void_p()
        crypto.i2d_PUBKEY.argtypes = [ct.c_void_p, ct.POINTER(ct.c_void_p)]
        size = crypto.i2d_PUBKEY(piecemeal.pointer, ct.byref(spki))
        expected = TOOLS.leaf.public_key().public_bytes(Encoding.DER, openssl.PublicFormat.SubjectPublicKeyInfo)
        assert ct.string_at(spki.value or 0, size) == expected
        piecemeal.key.take_failure()

    def test_two_of_ours_are_compared_by_their_public_halves(self, piecemeal: Piecemeal) -> None:
        equal = openssl._installed[0][0].equal
        for other, verdict in ((TOOLS, True), (PLANNER, False), (TOOLS_384, False)):
            twin = Piecemeal(TellingSigner(other))
            assert (equal(piecemeal.pointer, twin.pointer) == 1) is verdict
            twin.close()
        piecemeal.key.take_failure()
