"""What only a bundle in PEM can have wrong; what both formats share is in test_bundle.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from sidecar.identity.bundle import TrustBundle
from sidecar.identity.bundle_fault import BundleCode, BundleError
from sidecar.identity.spiffe import TrustDomain
from tests.support.ca import NOW, Ca, der, key_pem, keypair, pem

if TYPE_CHECKING:
    from collections.abc import Callable

DOMAIN = TrustDomain("example.org")
KEY = keypair("bundle")
ROOT = Ca().certificate
GOOD = pem(ROOT)

DEFECTS: dict[str, tuple[BundleCode, Callable[[], bytes]]] = {
    "garbage": (BundleCode.NOT_PEM, lambda: b"\x00\xffgarbage\n"),
    "text": (BundleCode.NOT_PEM, lambda: b"to be filled in\n"),
    "der": (BundleCode.NOT_PEM, lambda: der(ROOT)),
    "cut-off": (BundleCode.DAMAGED_PEM, lambda: GOOD[:-30]),
    "second-block-cut-off": (BundleCode.DAMAGED_PEM, lambda: GOOD + GOOD[:200]),
    "not-base64": (BundleCode.DAMAGED_PEM, lambda: GOOD.replace(b"\nMII", b"\nM*I")),
    "garbage-after": (BundleCode.DAMAGED_PEM, lambda: GOOD + b"-----BEGIN \xff-----"),
    "certificate-is-garbage": (
        BundleCode.MALFORMED_CERTIFICATE,
        lambda: b"-----BEGIN CERTIFICATE-----\nAQID\n-----END CERTIFICATE-----\n",
    ),
    "empty-block": (
        BundleCode.MALFORMED_CERTIFICATE,
        lambda: GOOD + b"-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n",
    ),
    "private-key": (BundleCode.PRIVATE_KEY, lambda: GOOD + key_pem(KEY)),
    "private-key-alone": (BundleCode.PRIVATE_KEY, lambda: key_pem(KEY)),
    "revocation-list": (
        BundleCode.UNEXPECTED_BLOCK,
        lambda: GOOD + b"-----BEGIN X509 CRL-----\nAQID\n-----END X509 CRL-----\n",
    ),
    "openssl-trusted": (BundleCode.UNEXPECTED_BLOCK, lambda: GOOD.replace(b"CERTIFICATE", b"TRUSTED CERTIFICATE")),
}


def refused(text: bytes) -> BundleError:
    with pytest.raises(BundleError) as caught:
        TrustBundle.parse(DOMAIN, text, NOW)
    assert caught.value.hint
    return caught.value


@pytest.mark.parametrize("defect", DEFECTS)
def test_defective_bundle_has_its_code(defect: str) -> None:
    code, build = DEFECTS[defect]
    assert refused(build()).code is code


def test_message_about_a_private_key_does_not_show_it() -> None:
    secret = key_pem(KEY)
    error = refused(GOOD + secret)
    assert not any(line in f"{error} {error.hint}".encode() for line in secret.splitlines())


def test_text_around_the_blocks_is_let_pass() -> None:
    text = b"# our root\n" + GOOD.replace(b"\n", b"\r\n") + b"\n# the end\n"
    assert TrustBundle.parse(DOMAIN, text, NOW).authorities == (ROOT,)
