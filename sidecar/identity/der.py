"""The one thing needed of a certificate's encoding that the library does not hand out: its key, byte for byte."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from cryptography import x509

_VERSION_TAG: Final = 0xA0
_FIELDS_BEFORE_KEY: Final = 5
"""serialNumber, signature, issuer, validity, subject (RFC 5280 4.1)."""


def subject_public_key_info(certificate: x509.Certificate) -> bytes:
    """The DER of the SubjectPublicKeyInfo exactly as it stands in the certificate (RFC 5280 4.1.2.7).

    Loading the key and encoding it again would normalise it (a compressed point comes back uncompressed), and a pin is
    a hash of what was presented. The certificate was parsed before, so lengths are definite and within bounds.
    """
    tbs = certificate.tbs_certificate_bytes
    start, _ = _contents(tbs, 0)
    if tbs[start] == _VERSION_TAG:
        start = _contents(tbs, start)[1]
    for _ in range(_FIELDS_BEFORE_KEY):
        start = _contents(tbs, start)[1]
    return tbs[start : _contents(tbs, start)[1]]


def _contents(data: bytes, start: int) -> tuple[int, int]:
    """Where the contents of the element at ``start`` begin and end (X.690 8.1.3; tags here have one octet)."""
    length = data[start + 1]
    begin = start + 2
    if length >= 0x80:
        octets = length & 0x7F
        length = int.from_bytes(data[begin : begin + octets], "big")
        begin += octets
    return begin, begin + length
