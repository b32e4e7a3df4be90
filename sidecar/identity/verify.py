"""Verification of a peer's chain: who presented it, or why that is not proven.

By the X.509-SVID specification, sections 2 to 5, and RFC 5280, section 6. The order matters: sizes before anything is
parsed, what one certificate shows by itself before any signature is checked, and signatures against the bundle of the
leaf's own trust domain alone. TLS trusts the union of all bundles, so a leaf for domain A under the root of B arrives
here with the handshake's blessing.

Every presented certificate is held to the rules, on the path or not: what is not needed is not to be sent. Path
building, signatures and validity are the library's; the rules for single certificates are ours (``profile``).
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.x509.verification import ClientVerifier, Criticality, ExtensionPolicy, PolicyBuilder
from cryptography.x509.verification import VerificationError as NoPathError

from sidecar.identity.diagnosis import diagnose
from sidecar.identity.facts import Facts, shielded
from sidecar.identity.peer import Peer, Role
from sidecar.identity.pins import Pin
from sidecar.identity.profile import (
    check_leaf,
    check_presented,
    check_purpose,
    check_signing,
    check_signing_purpose,
    leaf_id,
)
from sidecar.identity.refusal import Refusal, VerificationError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sidecar.identity.bundle import Bundles, TrustBundle

__all__ = [
    "MAX_CHAIN_BYTES",
    "MAX_CHAIN_CERTIFICATES",
    "MAX_LEAF_BYTES",
    "Refusal",
    "VerificationError",
    "check_chain_size",
    "verify",
]

MAX_CHAIN_CERTIFICATES: Final = 8
"""Leaf and seven intermediates, where SPIFFE chains have none to two. OpenSSL by itself would take a hundred."""

MAX_CHAIN_BYTES: Final = 64 * 1024
MAX_LEAF_BYTES: Final = 16 * 1024
"""A P-256 leaf has half a kilobyte, an RSA one with the longest SPIFFE ID and many names eight."""

_LEAF_EXTENSIONS: Final = ExtensionPolicy.permit_all()
_SIGNING_EXTENSIONS: Final = ExtensionPolicy.permit_all().require_present(
    x509.BasicConstraints, Criticality.AGNOSTIC, None
)
"""Ours were checked before; the library insists on this one, whose path length it enforces."""


def verify(chain: Sequence[bytes], bundles: Bundles, *, role: Role, now: float) -> Peer:
    """The peer that a chain of DER certificates, leaf first, proves at ``now`` (seconds since the epoch).

    ``role`` is the one in which the peer presented it. Whether the peer has the leaf's key is not decided here: the TLS
    handshake proves that. Raises :class:`VerificationError`, and nothing else whatever the bytes.
    """
    check_chain_size(chain)
    leaf = Facts.of_der(chain[0])
    spiffe_id = leaf_id(leaf)
    bundle = bundles.get(spiffe_id.trust_domain)
    if bundle is None or bundle.trust_domain != spiffe_id.trust_domain:
        raise VerificationError(
            Refusal.TRUST_DOMAIN_UNKNOWN, f"{spiffe_id} is of a trust domain that has no bundle here"
        )
    check_leaf(leaf)
    check_purpose(leaf, role)
    check_time(leaf, now, (Refusal.EXPIRED, Refusal.NOT_YET_VALID))

    intermediates = [Facts.of_der(der) for der in chain[1:]]
    for intermediate in intermediates:
        check_presented(intermediate)
        check_signing(intermediate, spiffe_id.trust_domain)
        check_signing_purpose(intermediate, role)
        check_time(intermediate, now, (Refusal.INTERMEDIATE_EXPIRED, Refusal.INTERMEDIATE_NOT_YET_VALID))

    path = _path(leaf, intermediates, bundle, now)
    not_after = min(certificate.not_valid_after_utc for certificate in path).timestamp()
    if now > not_after:  # in the last fraction of a second of the authority, which the library does not see
        raise VerificationError(Refusal.AUTHORITY_EXPIRED, "the authority that signed the chain has expired")
    return Peer(
        id=spiffe_id,
        pin=Pin.of_certificate(leaf.certificate),
        serial=f"{leaf.certificate.serial_number:x}",
        leaf_sha256=hashlib.sha256(chain[0]).digest(),
        not_after=not_after,
        not_before=max(certificate.not_valid_before_utc for certificate in path).timestamp(),
    )


def check_chain_size(chain: Sequence[bytes]) -> None:
    """Refuses a chain by its number of certificates and bytes, before one of them is parsed."""
    if not chain:
        raise VerificationError(Refusal.CHAIN_EMPTY, "no certificate was presented")
    if len(chain) > MAX_CHAIN_CERTIFICATES:
        raise VerificationError(
            Refusal.CHAIN_TOO_LONG, f"the chain has {len(chain)} certificates, more than {MAX_CHAIN_CERTIFICATES}"
        )
    if len(chain[0]) > MAX_LEAF_BYTES:
        raise VerificationError(Refusal.LEAF_TOO_LARGE, f"the leaf has more than {MAX_LEAF_BYTES} bytes")
    if sum(map(len, chain)) > MAX_CHAIN_BYTES:
        raise VerificationError(Refusal.CHAIN_TOO_LARGE, f"the chain has more than {MAX_CHAIN_BYTES} bytes")


def check_time(facts: Facts, now: float, codes: tuple[Refusal, Refusal]) -> None:
    """Refuses a certificate outside of its validity, with the first code when it has expired, else the second."""
    expired, not_yet_valid = codes
    if now < facts.not_before:
        raise VerificationError(
            not_yet_valid, "a certificate is not valid yet", hint="compare the clocks of the two machines"
        )
    if not now <= facts.not_after:
        raise VerificationError(expired, "a certificate has expired")


def _path(leaf: Facts, intermediates: list[Facts], bundle: TrustBundle, now: float) -> list[x509.Certificate]:
    """The certificates from the leaf to an authority of the bundle; raises :class:`VerificationError`."""
    verifier = (
        PolicyBuilder()
        # A whole second inside of what the leaf was checked for; the library compares no fractions.
        .time(datetime.fromtimestamp(int(now), tz=UTC))
        .store(bundle.store)
        .max_chain_depth(MAX_CHAIN_CERTIFICATES)
        .extension_policies(ca_policy=_SIGNING_EXTENSIONS, ee_policy=_LEAF_EXTENSIONS)
        # The client's verifier in both roles: the server's would compare a DNS name, and ours are SPIFFE IDs.
        .build_client_verifier()
    )
    try:
        return shielded(_build, verifier, leaf, intermediates)
    except NoPathError as error:
        raise shielded(diagnose, leaf, intermediates, bundle.authorities, now) from error


def _build(verifier: ClientVerifier, leaf: Facts, intermediates: list[Facts]) -> list[x509.Certificate]:
    return verifier.verify(leaf.certificate, [facts.certificate for facts in intermediates]).chain
