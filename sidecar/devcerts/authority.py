"""The development authority: found, renewed or made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from cryptography.x509.oid import NameOID

from sidecar.devcerts import pem
from sidecar.devcerts.errors import DevCertsCode, DevCertsError
from sidecar.devcerts.layout import AUTHORITY_CERTIFICATE, AUTHORITY_KEY
from sidecar.identity.facts import Facts, issued_by
from sidecar.identity.issue import AUTHORITY_LIFETIME, Authority, IssueCode, IssueError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import ec

    from sidecar.devcerts.files import NewFile
    from sidecar.devcerts.layout import Order

RENEW_BEFORE: Final = AUTHORITY_LIFETIME / 3
"""Seconds before its end from which an authority is renewed: far longer than any certificate under it lives."""

_OTHER_FOLDER: Final = "use another folder for another authority"

_CODES: Final = {
    IssueCode.NO_TRUST_DOMAIN: DevCertsCode.AUTHORITY_FOREIGN,
    IssueCode.NOT_AUTHORITY: DevCertsCode.AUTHORITY_FOREIGN,
    IssueCode.KEY_MISMATCH: DevCertsCode.KEY_MISMATCH,
}


@dataclass(frozen=True, slots=True)
class Prepared:
    """An authority with the files that have to be written for it, none if it stays as it is."""

    authority: Authority
    news: str
    files: tuple[NewFile, ...] = ()


def prepare(order: Order, now: float) -> Prepared:
    """The authority of the folder; writes nothing. Raises DevCertsError for files that are not ours.

    Its key stays for as long as the folder does, also with ``new_keys``: those who trust it, and the identities that
    this order does not name, go on working. A renewed certificate has the name and key of the old one, so that whoever
    still has the old one verifies what is issued under the new one.
    """
    certificate_path = order.directory / AUTHORITY_CERTIFICATE
    key_path = order.directory / AUTHORITY_KEY
    facts, key = pem.read_certificate(certificate_path), pem.read_key(key_path)
    if facts is None:
        signing = key or pem.new_key()
        authority = Authority.create(order.trust_domain, now=now, private_key=signing)
        made = pem.certificate_file(certificate_path, authority.certificate)
        if key is not None:
            return Prepared(authority, "new certificate, key kept", (made,))
        return Prepared(authority, "new", (pem.key_file(key_path, signing), made))
    if key is None:
        raise DevCertsError(
            DevCertsCode.KEY_LOST,
            f"{certificate_path} is there, but its key {key_path} is not",
            hint="put the key back, or begin anew in another folder",
        )
    authority = _existing(order, facts, key)
    if facts.not_before <= now < facts.not_after - RENEW_BEFORE:
        return Prepared(authority, "kept")
    renewed = Authority.create(order.trust_domain, now=now, private_key=key, common_name=_common_name(facts))
    return Prepared(renewed, "renewed, key kept", (pem.certificate_file(certificate_path, renewed.certificate),))


def _existing(order: Order, facts: Facts, key: ec.EllipticCurvePrivateKey) -> Authority:
    """The authority in the folder, if it is one of ours: of that key and trust domain, and self-signed."""
    path = order.directory / AUTHORITY_CERTIFICATE
    try:
        authority = Authority(facts.certificate, key)
    except IssueError as error:
        code = _CODES[IssueCode(error.code)]
        raise DevCertsError(code, f"{path}: {error}", hint=_OTHER_FOLDER) from error
    if authority.trust_domain != order.trust_domain:
        raise DevCertsError(
            DevCertsCode.TRUST_DOMAIN_FOREIGN,
            f"{path} is the authority of {authority.trust_domain}, not of {order.trust_domain}",
            hint=f"use --trust-domain {authority.trust_domain}, or another folder",
        )
    if not issued_by(facts, facts) or _common_name(facts) is None:
        raise DevCertsError(
            DevCertsCode.AUTHORITY_FOREIGN, f"{path} is not one that this command made", hint=_OTHER_FOLDER
        )
    return authority


def _common_name(facts: Facts) -> str | None:
    """The subject, if it has the form that ours have: a common name and nothing else."""
    attributes = list(facts.subject)
    if len(attributes) != 1 or attributes[0].oid != NameOID.COMMON_NAME:
        return None
    return str(attributes[0].value)
