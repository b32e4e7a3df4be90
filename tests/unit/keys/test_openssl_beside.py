"""The provider and everything else: other people's keys beside it, an OpenSSL that cannot take it, and the way of a self-test."""

from __future__ import annotations

import _ctypes
import _ssl
import ctypes as ct
import hashlib
import hmac
import ssl
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat
from cryptography.x509 import DNSName

from sidecar.keys import openssl
from sidecar.keys.errors import KeyCode, PrivateKeyError, SignCode, SignError
from sidecar.keys.messages import self_test_message
from sidecar.keys.openssl import MESSAGE_BYTES, ExternalKey, ThroughOpenSsl
from sidecar.keys.selftest import check_signature, self_test
from sidecar.keys.signer import Hash
from sidecar.tls.handover import path_holding
from tests.support.ca import HOUR, Identity, Signer, forge, keypair, name, pem, rsa_keypair
from tests.support.lent import (
    PLANNER_384,
    TOOLS_384,
    TellingSigner,
    client_of,
    failing,
    leaving_nothing,
    lent,
    queued_error,
    server_of,
    talk,
)
from tests.support.tls import NOW, PLANNER, TOOLS, SSLContext, Stdlib, connected, converse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    openssl.install()
    with leaving_nothing():
        yield


def self_signed(key: Any) -> Identity:
    """What an ordinary server has."""
    return Identity(
        (
            forge(
                Signer(name("old.example"), key),
                key.public_key(),
                subject="old.example",
                uris=(),
                names=[DNSName("old.example")],
                not_before=NOW - HOUR,
                not_after=NOW + HOUR,
            ),
        ),
        key,
    )


def shake(identity: Identity, key_pem: bytes, password: str = "") -> None:
    """An ordinary handshake, by contexts that know nothing of us, with a host name that is compared."""
    server = SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with path_holding(identity.chain_pem) as chain, path_holding(key_pem) as key:
        server.load_cert_chain(chain, key, password)
    client = SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.load_verify_locations(cadata=pem(identity.leaf).decode())
    there, here = Stdlib(server, server=True), Stdlib(client, server=False, name="old.example")
    converse(here, there)
    assert (here.error, there.error, here.done, there.done) == (None, None, True, True)


KEYS = {
    "P-256": keypair("old P-256"),
    "P-384": keypair("old P-384", curve=ec.SECP384R1),
    "P-521": keypair("old P-521", curve=ec.SECP521R1),
    "RSA": rsa_keypair("old RSA"),
}
FORMATS = {"PKCS8": PrivateFormat.PKCS8, "traditional": PrivateFormat.TraditionalOpenSSL}


class TestBeside:
    @pytest.mark.parametrize("kind", KEYS)
    @pytest.mark.parametrize("form", FORMATS)
    def test_other_peoples_keys(self, kind: str, form: str) -> None:
        keeper = lent()  # while one of ours is in use
        identity = self_signed(KEYS[kind])
        shake(identity, identity.key.private_bytes(Encoding.PEM, FORMATS[form], NoEncryption()))
        encrypted = identity.key.private_bytes(Encoding.PEM, FORMATS[form], BestAvailableEncryption(b"open sesame"))
        shake(identity, encrypted, "open sesame")
        with pytest.raises(ssl.SSLError):
            shake(identity, encrypted, "open barley")
        assert not keeper.tools.asked

    @pytest.mark.parametrize("group", ["prime256v1", "secp384r1", "X25519"])
    def test_key_agreement_goes_on_elsewhere(self, group: str) -> None:
        """Ephemeral keys are EC keys as well, and made by nobody but OpenSSL."""
        pair = lent(PLANNER_384, TOOLS_384)
        pair.server.sslcontext.set_ecdh_curve(group)
        talk(*connected(pair.client, pair.server))
        software = client_of(PLANNER), server_of(TOOLS)
        software[1].sslcontext.set_ecdh_curve(group)
        talk(*connected(*software))

    def test_contexts_without_us_made_before_and_after(self) -> None:
        before = client_of(PLANNER), server_of(TOOLS)
        keeper = lent()
        talk(*connected(*before))
        talk(*connected(client_of(PLANNER), server_of(TOOLS)))
        assert not keeper.tools.asked

    def test_hashes_and_the_other_openssl(self) -> None:
        assert hashlib.new("sha384", b"", usedforsecurity=True).hexdigest().startswith("38b060a7")
        assert hmac.digest(b"", b"", "sha256").hex().startswith("b613679a")
        message = b"anything"
        edwards = ed25519.Ed25519PrivateKey.generate()
        edwards.public_key().verify(edwards.sign(message), message)
        key = keypair("old P-384")
        key.public_key().verify(
            key.sign(message, ec.ECDSA(Hash.SHA384.algorithm)), message, ec.ECDSA(Hash.SHA384.algorithm)
        )


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[tuple[bytes, bytearray]]:
    """What our decoder reads: as it was read, and where it lies."""
    provider = openssl._installed[0][1]
    real, reads = provider._read, []

    def spy(bio: int, size: int) -> bytearray:
        data: bytearray = real(bio, size)
        reads.append((bytes(data), data))
        return data

    monkeypatch.setattr(provider, "_read", spy)
    return reads


class TestDecoder:
    """A private key of somebody else's has no business in Python's memory."""

    @pytest.mark.parametrize("kind", KEYS)
    @pytest.mark.parametrize("form", FORMATS)
    def test_of_a_good_file_no_more_than_the_label_is_read(
        self, kind: str, form: str, seen: list[tuple[bytes, bytearray]]
    ) -> None:
        identity = self_signed(KEYS[kind])
        key_pem = identity.key.private_bytes(Encoding.PEM, FORMATS[form], NoEncryption())
        for whole in (key_pem, b"Bag Attributes\n" + key_pem, identity.chain_pem + key_pem):
            seen.clear()
            shake(identity, whole)
            assert whole.startswith(b"".join(read for read, _ in seen))
            assert len(seen) <= 1
        assert all(len(read) <= len(openssl._PEM_BEGIN) for read, _ in seen)

    @pytest.mark.parametrize(
        "damage",
        [
            lambda whole: whole.replace(b"PRIVATE KEY", b"UNKNOWN KEY"),
            lambda whole: whole[:100],
            lambda whole: whole.replace(b"BEGIN", b"BOGUS"),
            ssl.PEM_cert_to_DER_cert,
        ],
        ids=["label", "cut", "no-begin", "DER"],
    )
    def test_of_a_bad_file_nothing_stays(
        self, damage: Callable[[Any], bytes], seen: list[tuple[bytes, bytearray]]
    ) -> None:
        whole: Any = TOOLS.key_pem
        if damage is ssl.PEM_cert_to_DER_cert:
            whole = whole.decode().replace("PRIVATE KEY", "CERTIFICATE")
        context = SSLContext(ssl.PROTOCOL_TLS_SERVER)
        with path_holding(TOOLS.chain_pem) as chain, path_holding(damage(whole)) as key, pytest.raises(ssl.SSLError):
            context.load_cert_chain(chain, key)
        assert seen  # or nothing is shown by this
        assert all(len(read) <= len(openssl._PEM_BEGIN) for read, _ in seen)
        assert not any(any(memory) for _, memory in seen)

    def test_ours_after_others(self, seen: list[tuple[bytes, bytearray]]) -> None:
        """A file with more in it is none of ours, and none of ours holds more."""
        context = SSLContext(ssl.PROTOCOL_TLS_SERVER)
        ours = ExternalKey(TellingSigner(TOOLS)).lend(context)
        for whole in (b"\n" + ours, ours.replace(b"\n", b"\r\n")):
            with path_holding(TOOLS.chain_pem) as chain, path_holding(whole) as key, pytest.raises(ssl.SSLError):
                context.load_cert_chain(chain, key)
        with path_holding(TOOLS.chain_pem) as chain, path_holding(ours) as key:
            context.load_cert_chain(chain, key)
        assert b"".join(read for read, _ in seen[-2:]) == ours[:40]


class TestRefusal:
    """An interpreter whose OpenSSL cannot take a provider: said at once, with what to install."""

    @pytest.fixture(autouse=True)
    def uninstalled(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(openssl, "_installed", [])

    def refused(self, words: str) -> None:
        for attempt in (openssl.install, lambda: ExternalKey(TellingSigner(TOOLS))):
            with pytest.raises(PrivateKeyError) as caught:
                attempt()
            assert caught.value.code is KeyCode.OPENSSL
            assert words in str(caught.value)
            assert "apt-get install python3" in caught.value.hint
            assert openssl._installed == []

    def test_built_in(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delattr(_ssl, "__file__")
        self.refused("OpenSSL built in")

    @pytest.mark.parametrize("number", [0x1010117F, 0x20000000, 0x30000000])
    def test_too_old(self, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
        monkeypatch.setattr(ssl, "OPENSSL_VERSION_NUMBER", number)
        monkeypatch.setattr(ssl, "OPENSSL_VERSION", "Some SSL 1.2.3")
        self.refused("Some SSL 1.2.3")

    def test_no_libcrypto_behind_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(_ssl, "__file__", _ctypes.__file__)
        self.refused("shows no OpenSSL_version_num")

    def test_its_file_is_gone(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(_ssl, "__file__", "/nowhere/_ssl.so")
        self.refused("cannot be opened")

    def test_a_function_is_missing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        real = ct.CDLL

        class Lacking:
            def __init__(self, path: str | None) -> None:
                self._library = real(path)

            def __getattr__(self, wanted: str) -> Any:
                if wanted == "OSSL_PROVIDER_add_builtin":
                    raise AttributeError(wanted)
                return getattr(self._library, wanted)

        monkeypatch.setattr(openssl.ct, "CDLL", Lacking)
        self.refused("shows no OSSL_PROVIDER_add_builtin")

    def test_another_libcrypto_is_found(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(ssl, "OPENSSL_VERSION_NUMBER", ssl.OPENSSL_VERSION_NUMBER + 0x10)
        self.refused("another one than the ssl module uses")

    @pytest.mark.parametrize("function", ["add_builtin", "load"])
    def test_it_takes_no_provider(self, monkeypatch: pytest.MonkeyPatch, function: str) -> None:
        class Refusing(openssl._Library):
            def __init__(self) -> None:
                super().__init__()
                setattr(self, function, lambda *_: 0)
                if function == "load":
                    self.add_builtin = lambda *_: 1

        monkeypatch.setattr(openssl, "_Library", Refusing)
        self.refused("takes no further provider")


def test_installed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openssl, "_Library", None)
    openssl.install()
    ExternalKey(TellingSigner(TOOLS))


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
