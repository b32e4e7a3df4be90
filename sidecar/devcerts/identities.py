"""The identities under the authority: each found and renewed, or made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sidecar.devcerts import pem
from sidecar.devcerts.errors import DevCertsCode, DevCertsError
from sidecar.identity.facts import Facts, issued_by
from sidecar.identity.issue import issue
from sidecar.identity.pins import Pin
from sidecar.keys.software import Protection

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import ec

    from sidecar.devcerts.files import NewFile
    from sidecar.devcerts.layout import Place
    from sidecar.identity.issue import Authority
    from sidecar.identity.spiffe import SpiffeId

LIFETIME: Final = 7 * 24 * 3600.0
"""Seconds that a development certificate lives."""


@dataclass(frozen=True, slots=True)
class Identity:
    """One identity as it stands in the folder. ``not_after`` is in seconds since the epoch; ``news`` is about its key."""

    place: Place
    pin: Pin
    not_after: float
    news: str
    protection: Protection = Protection.SOFTWARE

    @property
    def id(self) -> SpiffeId:
        """The SPIFFE ID."""
        return self.place.id


@dataclass(frozen=True, slots=True)
class Prepared:
    """An identity with the files that have to be written for it, the key first."""

    identity: Identity
    files: tuple[NewFile, ...]


def prepare(place: Place, authority: Authority, now: float, *, new_key: bool) -> Prepared:
    """A certificate from now on, for the key that is there or a new one; writes nothing.

    A key without a certificate is kept. Raises DevCertsError for files that are not ours, also with ``new_key``: that
    replaces what this command made and nothing else.
    """
    facts, found = pem.read_certificate(place.certificate), pem.read_key(place.key, replaced=new_key)
    if facts is not None:
        _check_ours(place, facts, authority)
        if not new_key:
            _check_key(place, facts, found)
    key, news = (found, "key kept") if found is not None and not new_key else (pem.new_key(), "new key")
    certificate = issue(authority, key.public_key(), place.id, now=now, lifetime=LIFETIME)
    made = pem.certificate_file(place.certificate, certificate)
    return Prepared(
        Identity(place, Pin.of_certificate(certificate), certificate.not_valid_after_utc.timestamp(), news),
        (made,) if key is found else (pem.key_file(place.key, key), made),
    )


def _check_ours(place: Place, facts: Facts, authority: Authority) -> None:
    """Accepts a certificate that this authority issued to this identity, expired or not."""
    path = place.certificate
    if facts.uris != (str(place.id),):
        other = facts.uris[0] if len(facts.uris) == 1 else "another identity"
        raise DevCertsError(
            DevCertsCode.IDENTITY_OTHER,
            f"{path} is the certificate of {other!a}, not of {place.id}",
            hint="use another folder for other identities",
        )
    if not issued_by(facts, Facts.of_certificate(authority.certificate)):
        raise DevCertsError(
            DevCertsCode.CERTIFICATE_FOREIGN,
            f"{path} was issued by another authority than the one in the folder",
            hint=f"remove {place.folder}, or use another folder",
        )


def _check_key(place: Place, facts: Facts, key: ec.EllipticCurvePrivateKey | None) -> None:
    """Accepts the key that the certificate is for."""
    if key is None:
        raise DevCertsError(
            DevCertsCode.KEY_LOST,
            f"{place.certificate} is there, but its key {place.key} is not",
            hint="put the key back, or give --new-keys: the pin changes with the key",
        )
    if facts.public_key != key.public_key():
        raise DevCertsError(
            DevCertsCode.KEY_MISMATCH,
            f"{place.key} is not the key of {place.certificate}",
            hint="put the right key back, or give --new-keys: the pin changes with the key",
        )
