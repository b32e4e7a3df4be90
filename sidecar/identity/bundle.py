"""Trust bundles: the authorities of one trust domain, from a PEM file or SPIFFE bundle JSON."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, TypeAlias

from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.verification import Store

from sidecar.identity import bundle_pem
from sidecar.identity.bundle_fault import BundleCode, BundleError, Listed, check_authority
from sidecar.identity.spiffe import TrustDomain

if TYPE_CHECKING:
    from cryptography import x509

MAX_BUNDLE_BYTES: Final = 256 * 1024


@dataclass(frozen=True, slots=True)
class TrustBundle:
    """The authorities of a trust domain: one and more, each allowed to sign, none of another domain.

    An authority need not be self-signed: a path may end at an intermediate that is listed here. Raises
    :class:`BundleError` when made from other certificates; only :meth:`parse` looks at their validity in time.
    ``sequence`` is the number that a SPIFFE bundle gives itself (``spiffe_sequence``), None where it has none.
    """

    trust_domain: TrustDomain
    authorities: tuple[x509.Certificate, ...]
    sequence: int | None = field(default=None, compare=False)
    store: Store = field(init=False, repr=False, compare=False)
    """The authorities in the form that path building takes; made once."""

    def __post_init__(self) -> None:
        if not self.authorities:
            raise BundleError(BundleCode.NO_CERTIFICATE, f"no certificate in the bundle of {self.trust_domain}")
        for number, certificate in enumerate(self.authorities, 1):
            check_authority(Listed(f"certificate {number}", certificate), self.trust_domain)
        object.__setattr__(self, "store", Store(list(self.authorities)))

    @classmethod
    def parse(cls, trust_domain: TrustDomain, data: bytes, now: float) -> TrustBundle:
        """The bundle in a file, without what stands there twice: PEM, or SPIFFE bundle JSON when it begins with ``{``.

        Authorities that are not valid now stay, so that a bundle can be written ahead of a rotation and cleaned up
        after it, but one must be valid at ``now`` (seconds since the epoch). Raises :class:`BundleError`.
        """
        if len(data) > MAX_BUNDLE_BYTES:
            raise BundleError(BundleCode.TOO_LARGE, f"the bundle is larger than {MAX_BUNDLE_BYTES} bytes")
        begin = data.lstrip()[:1]
        if not begin:
            raise BundleError(BundleCode.EMPTY, f"the bundle of {trust_domain} is empty")
        listed, sequence = _read_json(data) if begin == b"{" else (bundle_pem.read(data), None)
        for each in listed:  # here, where the place in the file is known
            check_authority(each, trust_domain)
        bundle = cls(trust_domain, tuple(dict.fromkeys(each.certificate for each in listed)), sequence)
        _check_time(bundle, now)
        return bundle

    @property
    def fingerprint(self) -> bytes:
        """32 bytes that are equal for bundles of the same domain and authorities, in whatever order."""
        digests = sorted(hashlib.sha256(der).digest() for der in self.der())
        return hashlib.sha256(b"".join((self.trust_domain.name.encode("ascii"), b"\0", *digests))).digest()

    def der(self) -> list[bytes]:
        """The authorities in DER, in the bundle's order."""
        return [certificate.public_bytes(Encoding.DER) for certificate in self.authorities]


def _read_json(data: bytes) -> tuple[list[Listed], int | None]:
    from sidecar.identity.bundle_json import read  # noqa: PLC0415 - for bundles in that form alone

    return read(data)


Bundles: TypeAlias = Mapping[TrustDomain, TrustBundle]
"""Whom we believe about what: an authority speaks for its own trust domain alone."""


def _check_time(bundle: TrustBundle, now: float) -> None:
    """One authority is valid now, or nobody of the domain can be believed."""
    spans = [(c.not_valid_before_utc.timestamp(), c.not_valid_after_utc.timestamp()) for c in bundle.authorities]
    if any(not_before <= now <= not_after for not_before, not_after in spans):
        return
    if any(now < not_before for not_before, _ in spans):
        raise BundleError(
            BundleCode.NONE_VALID_YET, f"no authority in the bundle of {bundle.trust_domain} is valid yet"
        )
    raise BundleError(BundleCode.ALL_EXPIRED, f"every authority in the bundle of {bundle.trust_domain} has expired")


def changed(before: Bundles, after: Bundles) -> frozenset[TrustDomain]:
    """Returns the trust domains whose bundle is another one afterwards, or gone; new domains are none of them."""
    return frozenset(
        domain
        for domain, bundle in before.items()
        if domain not in after or after[domain].fingerprint != bundle.fingerprint
    )


def older(before: Bundles, after: Bundles) -> list[tuple[TrustDomain, int, int]]:
    """Returns the trust domains whose bundle afterwards says itself that it is an older one, with both sequences."""
    return [
        (domain, bundle.sequence, following.sequence)
        for domain, bundle in before.items()
        if (following := after.get(domain)) is not None
        and bundle.sequence is not None
        and following.sequence is not None
        and following.sequence < bundle.sequence
    ]
