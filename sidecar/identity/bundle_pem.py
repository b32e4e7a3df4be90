"""A trust bundle as PEM: certificates, and nothing else between them but text."""

from __future__ import annotations

from sidecar.identity import pem as pem_format
from sidecar.identity.bundle_fault import BundleCode, BundleError, Listed, check_count, load


def read(pem: bytes) -> list[Listed]:
    """The certificates of a file, in its order; raises :class:`BundleError`."""
    try:
        blocks = pem_format.blocks(pem)
    except pem_format.PemError as error:
        raise BundleError(BundleCode.DAMAGED_PEM, f"the bundle is damaged: {error}") from error
    if not blocks:
        raise BundleError(BundleCode.NOT_PEM, "the bundle is not PEM: it has no -----BEGIN CERTIFICATE----- line")
    for block in blocks:
        if block.is_private_key:
            raise BundleError(BundleCode.PRIVATE_KEY, f"there is a private key at line {block.line}")
        if not block.is_certificate:
            raise BundleError(
                BundleCode.UNEXPECTED_BLOCK, f"line {block.line} begins a {block.label}, not a CERTIFICATE"
            )
    check_count(len(blocks))
    return [_load(block) for block in blocks]


def _load(block: pem_format.Block) -> Listed:
    try:
        der = block.der()
    except pem_format.PemError as error:
        raise BundleError(BundleCode.DAMAGED_PEM, f"the bundle is damaged: {error}") from error
    return load(f"the certificate at line {block.line}", der)
