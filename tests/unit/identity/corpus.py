"""Bad chains, each named by its defect and refused for that defect alone.

Everything else about a case is good, so that a check that is lost shows as a chain that is accepted. Built when a test
asks for them: nothing here expires, and no key is kept in the repository.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from sidecar.identity.peer import Role
from sidecar.identity.verify import MAX_CHAIN_BYTES, MAX_CHAIN_CERTIFICATES, MAX_LEAF_BYTES, Refusal
from tests.support.ca import (
    CLIENT_AUTH,
    DAY,
    HOUR,
    LEAF_USAGE,
    NOW,
    SERVER_AUTH,
    Ca,
    Signer,
    der,
    forge,
    forge_signing,
    keypair,
    name,
    resign,
    rsa_keypair,
    tlv,
    usage,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sidecar.identity.bundle import Bundles

VERSION_3 = bytes.fromhex("a003020102")

UNKNOWN = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.55555.1"), b"\x05\x00")

URI_CONSTRAINT = x509.NameConstraints([x509.UniformResourceIdentifier("example.org")], None)
DNS_CONSTRAINT = x509.NameConstraints(None, [x509.DNSName("evil.example")])


@dataclass(frozen=True)
class Bad:
    """A chain in DER that must be refused, with the world it is presented in."""

    chain: Sequence[bytes]
    bundles: Bundles = field(default_factory=lambda: ca().bundles)
    role: Role = Role.CLIENT
    now: float = NOW


CASES: dict[str, tuple[Refusal, Callable[[], Bad]]] = {}


def case(defect: str, refusal: Refusal) -> Callable[[Callable[[], Bad]], Callable[[], Bad]]:
    """Enters a builder in the corpus under the name of its defect."""

    def enter(build: Callable[[], Bad]) -> Callable[[], Bad]:
        assert defect not in CASES
        CASES[defect] = (refusal, build)
        return build

    return enter


@functools.cache
def ca() -> Ca:
    return Ca("example.org")


def leaf(**knobs: Any) -> Bad:
    """A chain of one leaf under the authority."""
    role = knobs.pop("role", Role.CLIENT)
    return Bad([der(forge(ca().signer, **knobs))], role=role)


def raw_leaf(edit: Callable[[bytes], bytes]) -> Bad:
    """A chain of one leaf with its encoding edited and signed again."""
    return Bad([resign(forge(ca().signer), keypair("authority example.org "), edit)])


def intermediate(**knobs: Any) -> Bad:
    """A good leaf under an intermediate with those properties."""
    key = keypair("forged intermediate")
    certificate = forge_signing(ca().signer, key, "intermediate", **knobs)
    return Bad([der(forge(Signer(name("intermediate"), key))), der(certificate)])


def rsa_public_key(bits: int, exponent: int = 65537) -> rsa.RSAPublicKey:
    """An RSA public key of that size without the minutes it takes to find its primes."""
    return rsa.RSAPublicNumbers(exponent, (1 << bits) - 1).public_key()


def with_serial(serial: bytes) -> Callable[[bytes], bytes]:
    """Puts the contents of a serial number into a tbsCertificate."""

    def edit(tbs: bytes) -> bytes:
        assert tbs.startswith(VERSION_3)
        end = len(VERSION_3) + 2 + tbs[len(VERSION_3) + 1]
        return VERSION_3 + tlv(0x02, serial) + tbs[end:]

    return edit


# --- what was presented, before anything of it is read


@case("no-certificate", Refusal.CHAIN_EMPTY)
def _() -> Bad:
    return Bad([])


@case("chain-of-nine", Refusal.CHAIN_TOO_LONG)
def _() -> Bad:
    identity = ca().intermediate().leaf()
    return Bad([identity.der[0], *[identity.der[1]] * MAX_CHAIN_CERTIFICATES])


@case("chain-of-too-many-bytes", Refusal.CHAIN_TOO_LARGE)
def _() -> Bad:
    return Bad([*ca().leaf().der, bytes(MAX_CHAIN_BYTES)])


@case("leaf-of-too-many-bytes", Refusal.LEAF_TOO_LARGE)
def _() -> Bad:
    filler = x509.UnrecognizedExtension(UNKNOWN.oid, bytes(MAX_LEAF_BYTES))
    return leaf(extensions=[(filler, False)])


# --- any certificate


@case("garbage", Refusal.CERTIFICATE_MALFORMED)
def _() -> Bad:
    return Bad([b"garbage"])


@case("empty-certificate", Refusal.CERTIFICATE_MALFORMED)
def _() -> Bad:
    return Bad([b""])


@case("truncated-leaf", Refusal.CERTIFICATE_MALFORMED)
def _() -> Bad:
    return Bad([ca().leaf().der[0][:-1]])


@case("bytes-after-leaf", Refusal.CERTIFICATE_MALFORMED)
def _() -> Bad:
    return Bad([ca().leaf().der[0] + b"\0"])


@case("garbage-intermediate", Refusal.CERTIFICATE_MALFORMED)
def _() -> Bad:
    return Bad([*ca().leaf().der, b"garbage"])


@case("uri-name-with-long-s", Refusal.SPIFFE_ID_INVALID)
def _() -> Bad:
    return raw_leaf(lambda tbs: tbs.replace(b"/agent/planner/1", b"/agent/\xc5\xbfplann/1"))


@case("subject-not-utf8", Refusal.CERTIFICATE_MALFORMED)
def _() -> Bad:
    return raw_leaf(lambda tbs: tbs.replace(b"forged", b"f\xff\xff\xff\xff\xff"))


@case("extension-twice", Refusal.CERTIFICATE_MALFORMED)
def _() -> Bad:
    # Both extensions have the object identifier of keyUsage (2.5.29.15) when the second one's was rewritten.
    return raw_leaf(lambda tbs: tbs.replace(bytes.fromhex("0603551d13"), bytes.fromhex("0603551d0f")))


@case("point-not-on-curve", Refusal.CERTIFICATE_MALFORMED)
def _() -> Bad:
    point = keypair().public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    return raw_leaf(lambda tbs: tbs.replace(point, point[:-1] + bytes((point[-1] ^ 1,))))


@case("version-4", Refusal.CERTIFICATE_MALFORMED)
def _() -> Bad:
    return raw_leaf(lambda tbs: bytes.fromhex("a003020103") + tbs.removeprefix(VERSION_3))


@case("version-1", Refusal.CERTIFICATE_NOT_V3)
def _() -> Bad:
    return raw_leaf(lambda tbs: tbs.removeprefix(VERSION_3))


@case("serial-of-21-octets", Refusal.SERIAL_INVALID)
def _() -> Bad:
    return raw_leaf(with_serial(b"\x01" + bytes(20)))


@case("signed-over-sha224", Refusal.SIGNATURE_UNSUPPORTED)
def _() -> Bad:
    return leaf(algorithm=hashes.SHA224())


@case("signature-algorithm-differs-inside", Refusal.SIGNATURE_INVALID)
def _() -> Bad:
    sha256, sha384 = bytes.fromhex("06082a8648ce3d040302"), bytes.fromhex("06082a8648ce3d040303")
    return raw_leaf(lambda tbs: tbs.replace(sha256, sha384))


@case("critical-extension-unknown-in-leaf", Refusal.CRITICAL_EXTENSION)
def _() -> Bad:
    return leaf(extensions=[(UNKNOWN, True)])


@case("critical-policies-in-leaf", Refusal.CRITICAL_EXTENSION)
def _() -> Bad:
    policies = x509.CertificatePolicies([x509.PolicyInformation(UNKNOWN.oid, None)])
    return leaf(extensions=[(policies, True)])


@case("critical-extension-unknown-in-intermediate", Refusal.CRITICAL_EXTENSION)
def _() -> Bad:
    return intermediate(extensions=[(UNKNOWN, True)])


@case("uri-name-constraint-in-intermediate", Refusal.NAME_CONSTRAINTS)
def _() -> Bad:
    return intermediate(extensions=[(URI_CONSTRAINT, True)])


@case("dns-name-constraint-in-intermediate", Refusal.NAME_CONSTRAINTS)
def _() -> Bad:
    return intermediate(extensions=[(DNS_CONSTRAINT, False)])


@case("name-constraint-in-leaf", Refusal.NAME_CONSTRAINTS)
def _() -> Bad:
    return leaf(extensions=[(URI_CONSTRAINT, True)])


@case("leaf-key-p521", Refusal.KEY_UNSUPPORTED)
def _() -> Bad:
    return leaf(public_key=keypair("p521", curve=ec.SECP521R1).public_key())


@case("leaf-key-ed25519", Refusal.KEY_UNSUPPORTED)
def _() -> Bad:
    return leaf(public_key=ed25519.Ed25519PrivateKey.from_private_bytes(bytes(32)).public_key())


@case("leaf-key-dsa", Refusal.KEY_UNSUPPORTED)
def _() -> Bad:
    parameters = dsa.DSAParameterNumbers(p=(1 << 2048) - 1, q=(1 << 256) - 1, g=2)
    return leaf(public_key=dsa.DSAPublicNumbers(3, parameters).public_key())


@case("leaf-key-of-unknown-kind", Refusal.KEY_UNSUPPORTED)
def _() -> Bad:
    id_ec_public_key = bytes.fromhex("06072a8648ce3d0201")
    return raw_leaf(lambda tbs: tbs.replace(id_ec_public_key, bytes.fromhex("06072a8648ce3d0202")))


@case("intermediate-key-p521", Refusal.KEY_UNSUPPORTED)
def _() -> Bad:
    key = keypair("p521", curve=ec.SECP521R1)
    signing = forge_signing(ca().signer, key, "intermediate")
    return Bad([der(forge(Signer(name("intermediate"), key), algorithm=hashes.SHA512())), der(signing)])


@case("leaf-key-rsa-1024", Refusal.KEY_WEAK)
def _() -> Bad:
    return leaf(public_key=rsa_public_key(1024))


@case("leaf-key-rsa-2047", Refusal.KEY_WEAK)
def _() -> Bad:
    return leaf(public_key=rsa_public_key(2047))


@case("intermediate-key-rsa-1024", Refusal.KEY_WEAK)
def _() -> Bad:
    key = rsa_keypair("weak", bits=1024)
    return Bad(
        [der(forge(Signer(name("intermediate"), key))), der(forge_signing(ca().signer, key, "intermediate"))],
    )


@case("leaf-key-rsa-16384", Refusal.KEY_OVERSIZED)
def _() -> Bad:
    return leaf(public_key=rsa_public_key(16384))


@case("leaf-key-rsa-long-exponent", Refusal.KEY_OVERSIZED)
def _() -> Bad:
    return leaf(public_key=rsa_public_key(2048, exponent=(1 << 2000) + 1))


# --- the leaf


@case("leaf-without-names", Refusal.NO_SPIFFE_ID)
def _() -> Bad:
    return leaf(uris=[])


@case("leaf-spiffe-id-as-dns-name", Refusal.NO_SPIFFE_ID)
def _() -> Bad:
    return leaf(uris=[], names=[x509.DNSName("spiffe://example.org/agent/planner/1")])


@case("leaf-spiffe-id-as-email", Refusal.NO_SPIFFE_ID)
def _() -> Bad:
    return leaf(uris=[], names=[x509.RFC822Name("spiffe://example.org/agent/planner/1")])


@case("leaf-spiffe-id-as-common-name", Refusal.NO_SPIFFE_ID)
def _() -> Bad:
    return leaf(uris=[], subject="spiffe://example.org/agent/planner/1")


@case("leaf-two-uri-names", Refusal.SEVERAL_URI_NAMES)
def _() -> Bad:
    return leaf(uris=["spiffe://example.org/agent/other/1", "spiffe://example.org/agent/planner/1"])


@case("leaf-same-uri-name-twice", Refusal.SEVERAL_URI_NAMES)
def _() -> Bad:
    return leaf(uris=["spiffe://example.org/agent/planner/1"] * 2)


@case("leaf-spiffe-id-and-web-address", Refusal.SEVERAL_URI_NAMES)
def _() -> Bad:
    return leaf(uris=["spiffe://example.org/agent/planner/1", "https://example.org/"])


@case("leaf-web-address-only", Refusal.SPIFFE_ID_INVALID)
def _() -> Bad:
    return leaf(uris=["https://example.org/agent/planner/1"])


@case("leaf-spiffe-id-upper-case", Refusal.SPIFFE_ID_INVALID)
def _() -> Bad:
    return leaf(uris=["spiffe://Example.org/agent/planner/1"])


@case("leaf-spiffe-id-with-newline", Refusal.SPIFFE_ID_INVALID)
def _() -> Bad:
    return leaf(uris=["spiffe://example.org/agent/planner/1\n"])


@case("leaf-spiffe-id-with-nul", Refusal.SPIFFE_ID_INVALID)
def _() -> Bad:
    return leaf(uris=["spiffe://example.org/agent/planner/1\0.evil.example"])


@case("leaf-spiffe-id-of-trust-domain", Refusal.SPIFFE_ID_WITHOUT_PATH)
def _() -> Bad:
    return leaf(uris=["spiffe://example.org"])


@case("leaf-of-trust-domain-without-bundle", Refusal.TRUST_DOMAIN_UNKNOWN)
def _() -> Bad:
    return leaf(uris=["spiffe://example.com/agent/planner/1"])


@case("bundle-under-the-name-of-another-domain", Refusal.TRUST_DOMAIN_UNKNOWN)
def _() -> Bad:
    other = Ca("example.com")
    return Bad(other.leaf().der, bundles={other.domain: ca().bundle})


@case("leaf-ca-true", Refusal.LEAF_IS_AUTHORITY)
def _() -> Bad:
    return leaf(ca=True)


@case("leaf-is-the-authority", Refusal.SPIFFE_ID_WITHOUT_PATH)
def _() -> Bad:
    return Bad([der(ca().certificate)])


@case("leaf-without-key-usage", Refusal.KEY_USAGE_MISSING)
def _() -> Bad:
    return leaf(key_usage=None)


@case("leaf-key-usage-not-critical", Refusal.KEY_USAGE_NOT_CRITICAL)
def _() -> Bad:
    return leaf(key_usage_critical=False)


@case("leaf-cert-sign", Refusal.LEAF_SIGNS_CERTIFICATES)
def _() -> Bad:
    return leaf(key_usage=usage("digital_signature", "key_cert_sign"))


@case("leaf-crl-sign", Refusal.LEAF_SIGNS_CRLS)
def _() -> Bad:
    return leaf(key_usage=usage("digital_signature", "crl_sign"))


@case("leaf-without-digital-signature", Refusal.LEAF_NO_DIGITAL_SIGNATURE)
def _() -> Bad:
    return leaf(key_usage=usage("key_agreement"))


@case("server-only-leaf-as-client", Refusal.WRONG_PURPOSE)
def _() -> Bad:
    return leaf(purposes=[SERVER_AUTH], role=Role.CLIENT)


@case("client-only-leaf-as-server", Refusal.WRONG_PURPOSE)
def _() -> Bad:
    return leaf(purposes=[CLIENT_AUTH], role=Role.SERVER)


@case("leaf-for-any-purpose", Refusal.WRONG_PURPOSE)
def _() -> Bad:
    return leaf(purposes=[x509.ObjectIdentifier("2.5.29.37.0")])


# --- intermediates


@case("intermediate-ca-false", Refusal.INTERMEDIATE_NOT_AUTHORITY)
def _() -> Bad:
    return intermediate(ca=False)


@case("intermediate-without-basic-constraints", Refusal.INTERMEDIATE_NOT_AUTHORITY)
def _() -> Bad:
    return intermediate(ca=None)


@case("intermediate-is-a-leaf", Refusal.INTERMEDIATE_NOT_AUTHORITY)
def _() -> Bad:
    holder = ca().leaf("/agent/holder/1")
    return Bad([der(forge(Signer(holder.leaf.subject, holder.key))), *holder.der])


@case("intermediate-without-cert-sign", Refusal.INTERMEDIATE_NO_CERT_SIGN)
def _() -> Bad:
    return intermediate(key_usage=LEAF_USAGE)


@case("intermediate-without-key-usage", Refusal.INTERMEDIATE_NO_CERT_SIGN)
def _() -> Bad:
    return intermediate(key_usage=None)


@case("server-only-intermediate-above-client", Refusal.INTERMEDIATE_WRONG_PURPOSE)
def _() -> Bad:
    return intermediate(purposes=[SERVER_AUTH])


@case("intermediate-of-foreign-trust-domain", Refusal.INTERMEDIATE_FOREIGN)
def _() -> Bad:
    return intermediate(uris=["spiffe://example.com"])


@case("intermediate-with-path", Refusal.INTERMEDIATE_SPIFFE_ID_INVALID)
def _() -> Bad:
    return intermediate(uris=["spiffe://example.org/agent/planner/1"])


@case("intermediate-spiffe-id-upper-case", Refusal.INTERMEDIATE_SPIFFE_ID_INVALID)
def _() -> Bad:
    return intermediate(uris=["SPIFFE://example.org"])


# --- time


@case("leaf-expired", Refusal.EXPIRED)
def _() -> Bad:
    return leaf(not_before=NOW - DAY, not_after=NOW - 1)


@case("leaf-not-yet-valid", Refusal.NOT_YET_VALID)
def _() -> Bad:
    return leaf(not_before=NOW + 1)


@case("no-clock", Refusal.EXPIRED)
def _() -> Bad:
    return Bad(ca().leaf().der, now=float("nan"))


@case("intermediate-expired", Refusal.INTERMEDIATE_EXPIRED)
def _() -> Bad:
    return intermediate(not_after=NOW - 1)


@case("intermediate-not-yet-valid", Refusal.INTERMEDIATE_NOT_YET_VALID)
def _() -> Bad:
    return intermediate(not_before=NOW + 1)


@case("authority-expired", Refusal.AUTHORITY_EXPIRED)
def _() -> Bad:
    signer = Signer(ca().certificate.subject, ca().key)
    return Bad([der(forge(signer, not_after=NOW + 60 * DAY))], now=NOW + 40 * DAY)


@case("authority-expired-half-a-second-ago", Refusal.AUTHORITY_EXPIRED)
def _() -> Bad:
    return Bad([der(forge(ca().signer, not_after=NOW + 60 * DAY))], now=NOW + 30 * DAY + 0.5)


@case("authority-not-yet-valid", Refusal.AUTHORITY_NOT_YET_VALID)
def _() -> Bad:
    return Bad([der(forge(ca().signer, not_before=NOW - DAY))], now=NOW - HOUR)


# --- the path


@case("stranger", Refusal.AUTHORITY_UNKNOWN)
def _() -> Bad:
    stranger = Signer(name("stranger"), keypair("stranger"))
    return Bad([der(forge(stranger))])


@case("stranger-with-its-own-root", Refusal.AUTHORITY_UNKNOWN)
def _() -> Bad:
    key = keypair("stranger")
    root = forge_signing(Signer(name("stranger"), key), key, "stranger")
    return Bad([der(forge(Signer(name("stranger"), key))), der(root)])


@case("intermediate-left-out", Refusal.AUTHORITY_UNKNOWN)
def _() -> Bad:
    return Bad(ca().intermediate().leaf().der[:1])


@case("leaf-signed-by-itself", Refusal.AUTHORITY_UNKNOWN)
def _() -> Bad:
    return Bad([der(forge(Signer(name("forged"), keypair())))])


@case("leaf-without-issuer-name", Refusal.AUTHORITY_UNKNOWN)
def _() -> Bad:
    return Bad([der(forge(Signer(name(""), ca().key)))])


@case("leaf-of-one-domain-under-the-root-of-another", Refusal.AUTHORITY_UNKNOWN)
def _() -> Bad:
    other = Ca("example.com")
    return Bad([der(forge(other.signer))], bundles=ca().bundles | other.bundles)


@case("authority-of-the-same-name-and-other-key", Refusal.SIGNATURE_INVALID)
def _() -> Bad:
    return Bad(Ca("example.org", key="impostor").leaf().der)


@case("authority-of-the-same-name-and-key-identifier", Refusal.SIGNATURE_INVALID)
def _() -> Bad:
    identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(ca().key.public_key())
    impostor = Signer(ca().certificate.subject, keypair("impostor"))
    return Bad([der(forge(impostor, extensions=[(identifier, False)]))])


@case("signature-damaged", Refusal.SIGNATURE_INVALID)
def _() -> Bad:
    good = ca().leaf().leaf
    forged = good.signature[:-1] + bytes((good.signature[-1] ^ 1,))
    return Bad([der(good).replace(good.signature, forged)])


@case("intermediate-of-the-same-name-and-other-key", Refusal.SIGNATURE_INVALID)
def _() -> Bad:
    good = ca().intermediate().leaf()
    impostor = Signer(good.chain[1].subject, keypair("impostor"))
    return Bad([der(forge(impostor)), good.der[1]])


@case("intermediate-under-authority-without-room", Refusal.PATH_LENGTH_EXCEEDED)
def _() -> Bad:
    narrow = Ca("example.org", key="narrow", path_length=0)
    key = keypair("forged intermediate")
    signing = forge_signing(narrow.signer, key, "intermediate")
    return Bad([der(forge(Signer(name("intermediate"), key))), der(signing)], bundles=narrow.bundles)


@case("intermediate-under-intermediate-without-room", Refusal.PATH_LENGTH_EXCEEDED)
def _() -> Bad:
    upper, lower = keypair("upper"), keypair("lower")
    chain = [
        forge(Signer(name("lower"), lower)),
        forge_signing(Signer(name("upper"), upper), lower, "lower"),
        forge_signing(ca().signer, upper, "upper", path_length=0),
    ]
    return Bad([der(certificate) for certificate in chain])


@case("intermediate-signed-over-sha224", Refusal.SIGNATURE_UNSUPPORTED)
def _() -> Bad:
    return intermediate(algorithm=hashes.SHA224())


@case("general-time-before-2050", Refusal.PATH_INVALID)
def _() -> Bad:
    # RFC 5280 4.1.2.5: a date before 2050 is a UTCTime, and one moment has one encoding.
    leaf_certificate = forge(ca().signer, not_after=NOW + HOUR)
    utc = tlv(0x17, leaf_certificate.not_valid_after_utc.strftime("%y%m%d%H%M%SZ").encode())
    general = tlv(0x18, leaf_certificate.not_valid_after_utc.strftime("%Y%m%d%H%M%SZ").encode())
    begin = tlv(0x17, leaf_certificate.not_valid_before_utc.strftime("%y%m%d%H%M%SZ").encode())
    key = keypair("authority example.org ")
    return Bad(
        [resign(leaf_certificate, key, lambda tbs: tbs.replace(tlv(0x30, begin + utc), tlv(0x30, begin + general)))]
    )
