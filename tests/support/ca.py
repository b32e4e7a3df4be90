"""A small test authority: trust domains, intermediates, leaves, and leaves that nobody should issue.

`Ca` issues what is good, through the same function as the product. `forge` signs whatever it is told to, and `resign`
signs bytes that no library would write. Keys are cached by name, so that a thousand tests cost a handful of keys.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeAlias

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from sidecar.identity.bundle import TrustBundle
from sidecar.identity.issue import Authority, issue
from sidecar.identity.pins import Pin
from sidecar.identity.spiffe import SpiffeId, TrustDomain
from sidecar.identity.svid import Svid

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

NOW = 1_800_000_000.0
"""The moment at which the tests of pure code take place (January 2027)."""

HOUR = 3600.0
DAY = 24 * HOUR

Key: TypeAlias = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey

SERVER_AUTH = ExtendedKeyUsageOID.SERVER_AUTH
CLIENT_AUTH = ExtendedKeyUsageOID.CLIENT_AUTH


@functools.cache
def keypair(name: str = "leaf", *, curve: type[ec.EllipticCurve] = ec.SECP256R1) -> ec.EllipticCurvePrivateKey:
    """The EC key of that name, the same whenever it is asked for in this process."""
    return ec.generate_private_key(curve())


@functools.cache
def rsa_keypair(name: str = "leaf", *, bits: int = 2048) -> rsa.RSAPrivateKey:
    """The RSA key of that name; slow to make the first time."""
    return rsa.generate_private_key(public_exponent=65537, key_size=bits)


@dataclass(frozen=True)
class Identity:
    """A chain, leaf first, with the leaf's key."""

    chain: tuple[x509.Certificate, ...]
    key: Key

    @property
    def leaf(self) -> x509.Certificate:
        return self.chain[0]

    @property
    def id(self) -> SpiffeId:
        names = self.leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        return SpiffeId.parse(names.get_values_for_type(x509.UniformResourceIdentifier)[0])

    @property
    def pin(self) -> Pin:
        return Pin.of_certificate(self.leaf)

    @property
    def der(self) -> list[bytes]:
        return [der(certificate) for certificate in self.chain]

    @property
    def chain_pem(self) -> bytes:
        return pem(*self.chain)

    @property
    def key_pem(self) -> bytes:
        return key_pem(self.key)

    def svid(self, now: float = NOW) -> Svid:
        return Svid.from_pem(self.chain_pem, now)

    def write(self, folder: Path, name: str = "tls") -> tuple[Path, Path]:
        """Writes <name>.crt and <name>.key (mode 0600) and returns their paths."""
        certificate, key = folder / f"{name}.crt", folder / f"{name}.key"
        certificate.write_bytes(self.chain_pem)
        key.touch(mode=0o600)
        key.write_bytes(self.key_pem)
        return certificate, key


class Ca:
    """An authority of one trust domain. Two with the same domain and different `key` names are strangers."""

    def __init__(
        self,
        domain: str = "example.org",
        *,
        key: str = "",
        now: float = NOW,
        lifetime: float = 30 * DAY,
        path_length: int | None = None,
        authority: Authority | None = None,
        above: tuple[x509.Certificate, ...] = (),
    ) -> None:
        self.domain = TrustDomain(domain)
        self.now = now
        self.authority = authority or Authority.create(
            self.domain,
            now=now,
            lifetime=lifetime,
            path_length=path_length,
            private_key=keypair(f"authority {domain} {key}"),
        )
        self.above = above
        """The intermediates that belong into the chains of what this one issues, nearest first."""

    @property
    def certificate(self) -> x509.Certificate:
        return self.authority.certificate

    @property
    def key(self) -> Key:
        return self.authority.private_key

    @property
    def signer(self) -> Signer:
        return Signer(self.certificate.subject, self.key)

    @property
    def pem(self) -> bytes:
        return pem(self.certificate)

    @property
    def bundle(self) -> TrustBundle:
        return TrustBundle(self.domain, (self.certificate,))

    @property
    def bundles(self) -> dict[TrustDomain, TrustBundle]:
        return {self.domain: self.bundle}

    def intermediate(
        self, name: str = "intermediate", *, lifetime: float = 10 * DAY, path_length: int | None = None
    ) -> Ca:
        """An authority under this one, which puts its certificate into the chains it issues."""
        authority = self.authority.intermediate(
            now=self.now,
            lifetime=lifetime,
            common_name=name,
            path_length=path_length,
            private_key=keypair(f"{name} {self.domain}"),
        )
        return Ca(str(self.domain), now=self.now, authority=authority, above=(authority.certificate, *self.above))

    def leaf(
        self,
        path: str = "/agent/planner/1",
        *,
        key: Key | None = None,
        now: float | None = None,
        lifetime: float = HOUR,
        dns_names: Sequence[str] = (),
    ) -> Identity:
        """An X.509-SVID of this trust domain with that path; its key is cached by the path unless one is given."""
        key = key or keypair(f"leaf {self.domain}{path}")
        certificate = issue(
            self.authority,
            key.public_key(),
            SpiffeId(self.domain, path),
            now=self.now if now is None else now,
            lifetime=lifetime,
            dns_names=dns_names,
        )
        return Identity((certificate, *self.above), key)


@dataclass(frozen=True)
class Signer:
    """A name and a key: what it takes to sign a certificate, whether or not anybody may."""

    name: x509.Name
    key: Key


def usage(*bits: str) -> x509.KeyUsage:
    """A keyUsage with the named bits, e.g. `usage("digital_signature")`."""
    names = (
        "digital_signature",
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
        "key_cert_sign",
        "crl_sign",
        "encipher_only",
        "decipher_only",
    )
    assert set(bits) <= set(names)
    return x509.KeyUsage(**{name: name in bits for name in names})


LEAF_USAGE = usage("digital_signature")
SIGNING_USAGE = usage("key_cert_sign", "crl_sign")


def forge(
    signer: Signer,
    public_key: object = None,
    *,
    subject: x509.Name | str = "forged",
    uris: Iterable[str] = ("spiffe://example.org/agent/planner/1",),
    names: Iterable[x509.GeneralName] = (),
    ca: bool | None = False,
    path_length: int | None = None,
    key_usage: x509.KeyUsage | None = LEAF_USAGE,
    key_usage_critical: bool = True,
    purposes: Iterable[x509.ObjectIdentifier] | None = (SERVER_AUTH, CLIENT_AUTH),
    not_before: float = NOW - HOUR,
    not_after: float = NOW + HOUR,
    serial: int | None = None,
    extensions: Iterable[tuple[x509.ExtensionType, bool]] = (),
    algorithm: hashes.HashAlgorithm | None = None,
) -> x509.Certificate:
    """A certificate with exactly these properties, signed by that name and key. `ca=None`: no basicConstraints."""
    public_key = keypair().public_key() if public_key is None else public_key
    builder = (
        x509.CertificateBuilder()
        .subject_name(name(subject) if isinstance(subject, str) else subject)
        .issuer_name(signer.name)
        .public_key(public_key)  # type: ignore[arg-type]  # kinds that the product refuses are the point
        .serial_number(serial or x509.random_serial_number())
        .not_valid_before(_date(not_before))
        .not_valid_after(_date(not_after))
    )
    if ca is not None:
        builder = builder.add_extension(x509.BasicConstraints(ca, path_length if ca else None), critical=True)
    if key_usage is not None:
        builder = builder.add_extension(key_usage, critical=key_usage_critical)
    if purposes is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage(list(purposes)), critical=False)
    general = [*(x509.UniformResourceIdentifier(uri) for uri in uris), *names]
    if general:
        builder = builder.add_extension(x509.SubjectAlternativeName(general), critical=False)
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical=critical)
    return builder.sign(signer.key, algorithm or hashes.SHA256())  # type: ignore[arg-type]  # weak ones too


def forge_signing(signer: Signer, key: Key, subject: str, **knobs: object) -> x509.Certificate:
    """A signing certificate by `forge`, good unless a knob says otherwise."""
    defaults: dict[str, object] = {
        "subject": subject,
        "uris": ("spiffe://example.org",),
        "ca": True,
        "key_usage": SIGNING_USAGE,
        "purposes": None,
    }
    return forge(signer, key.public_key(), **(defaults | knobs))  # type: ignore[arg-type]  # knobs of forge


def resign(certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey, edit: Callable[[bytes], bytes]) -> bytes:
    """The DER of the certificate with its tbsCertificate edited as bytes, and signed again by that P-256 key.

    The edit gets the contents of the tbsCertificate, without its own tag and length.
    """
    tbs = certificate.tbs_certificate_bytes
    contents = tbs[2:] if tbs[1] < 0x80 else tbs[2 + (tbs[1] & 0x7F) :]
    edited = tlv(0x30, edit(contents))
    assert edited != tbs
    signature = key.sign(edited, ec.ECDSA(hashes.SHA256()))
    ecdsa_with_sha256 = bytes.fromhex("300a06082a8648ce3d040302")
    return tlv(0x30, edited + ecdsa_with_sha256 + tlv(0x03, b"\0" + signature))


def tlv(tag: int, contents: bytes) -> bytes:
    """One element in DER."""
    length = len(contents)
    if length < 0x80:
        return bytes((tag, length)) + contents
    octets = length.to_bytes((length.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(octets))) + octets + contents


def name(common_name: str) -> x509.Name:
    """A distinguished name of that common name alone; empty for the empty string."""
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)] if common_name else [])


def der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.DER)


def pem(*certificates: x509.Certificate) -> bytes:
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates)


def key_pem(key: Key) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _date(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, tz=UTC)
