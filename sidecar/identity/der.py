"""What is needed of a certificate's encoding itself: its key byte for byte, and the end of one that the library may not read."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from cryptography import x509

_VERSION_TAG: Final = 0xA0
_FIELDS_BEFORE_VALIDITY: Final = 3
"""serialNumber, signature, issuer (RFC 5280 4.1)."""
_FIELDS_BEFORE_KEY: Final = 5
"""The same, then validity and subject."""
_UTC_TIME: Final = 0x17


def subject_public_key_info(certificate: x509.Certificate) -> bytes:
    """The DER of the SubjectPublicKeyInfo exactly as it stands in the certificate (RFC 5280 4.1.2.7).

    Loading the key and encoding it again would normalise it (a compressed point comes back uncompressed), and a pin is
    a hash of what was presented. The certificate was parsed before, so lengths are definite and within bounds.
    """
    tbs = certificate.tbs_certificate_bytes
    start = _field(tbs, 0, _FIELDS_BEFORE_KEY)
    return tbs[start : _contents(tbs, start)[1]]


def not_after(der: bytes) -> float:
    """The end of a certificate's validity (RFC 5280 4.1.2.5), in seconds since the epoch.

    For certificates that OpenSSL has verified, whose validity it has read: roots that systems trust have serial numbers
    that the library warns of and will refuse. Raises ValueError where it cannot be read here.
    """
    try:
        validity, _ = _contents(der, _field(der, _contents(der, 0)[0], _FIELDS_BEFORE_VALIDITY))
        end = _contents(der, validity)[1]
        begin, behind = _contents(der, end)
        text = der[begin:behind]
        if der[end] == _UTC_TIME:
            text = (b"20" if text < b"50" else b"19") + text
        if len(text) != len(b"YYYYMMDDHHMMSSZ") or not text.endswith(b"Z"):
            raise ValueError("the time is not one of RFC 5280")
        month, day, hour, minute, second = (int(text[at : at + 2]) for at in range(4, 14, 2))
        return datetime(int(text[:4]), month, day, hour, minute, second, tzinfo=UTC).timestamp()
    except IndexError:
        raise ValueError("the certificate ends before its validity") from None


def _field(data: bytes, tbs: int, skipped: int) -> int:
    """Where a field of the TBSCertificate at ``tbs`` begins: after its version, if it has one, and so many others."""
    start, _ = _contents(data, tbs)
    if data[start] == _VERSION_TAG:
        start = _contents(data, start)[1]
    for _ in range(skipped):
        start = _contents(data, start)[1]
    return start


def _contents(data: bytes, start: int) -> tuple[int, int]:
    """Where the contents of the element at ``start`` begin and end (X.690 8.1.3; tags here have one octet)."""
    length = data[start + 1]
    begin = start + 2
    if length >= 0x80:
        octets = length & 0x7F
        length = int.from_bytes(data[begin : begin + octets], "big")
        begin += octets
    return begin, begin + length
