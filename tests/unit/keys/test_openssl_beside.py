"""The provider and everything else: other people's keys beside it, and an OpenSSL that cannot take it."""

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
from sidecar.keys.errors import KeyCode, PrivateKeyError
from sidecar.keys.openssl import ExternalKey
from sidecar.keys.signer import Hash
from sidecar.tls.handover import path_holding
from tests.support.ca import HOUR, Identity, Signer, forge, keypair, name, pem, rsa_keypair
from tests.support.lent import (
    PLANNER_384,
    TOOLS_384,
    TellingSigner,
    client_of,
    leaving_nothing,
    lent,
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
