from __future__ import annotations

import warnings

import pytest
from cryptography import x509
from cryptography.x509.verification import VerificationError as NoPathError

from sidecar.identity.facts import Facts, issued_by, shielded
from sidecar.identity.profile import check_presented
from sidecar.identity.refusal import Refusal, VerificationError
from tests.support.ca import LEAF_USAGE, NOW, SERVER_AUTH, Ca, Signer, der, forge, keypair, name, resign
from tests.unit.identity.corpus import with_serial


def test_parts_of_a_full_certificate() -> None:
    certificate = forge(
        Ca().signer,
        uris=["spiffe://example.org/a", "https://example.org/"],
        names=[x509.DNSName("a.internal")],
        purposes=[SERVER_AUTH],
        not_before=NOW - 5,
        not_after=NOW + 7,
    )
    facts = Facts.of_der(der(certificate))
    assert facts == Facts.of_certificate(certificate)
    assert facts.certificate == certificate
    assert (facts.subject, facts.issuer) == (name("forged"), Ca().certificate.subject)
    assert facts.public_key == keypair().public_key()
    assert facts.basic_constraints == x509.BasicConstraints(ca=False, path_length=None)
    assert (facts.key_usage, facts.key_usage_critical) == (LEAF_USAGE, True)
    assert facts.purposes == x509.ExtendedKeyUsage([SERVER_AUTH])
    assert facts.uris == ("spiffe://example.org/a", "https://example.org/")
    assert (facts.not_before, facts.not_after) == (NOW - 5, NOW + 7)
    assert (facts.constrains_names, facts.unprocessed, facts.is_authority) == (False, None, False)


def test_parts_of_a_bare_certificate() -> None:
    bare = forge(Ca().signer, uris=[], ca=None, key_usage=None, purposes=None)
    facts = Facts.of_certificate(bare)
    assert (facts.basic_constraints, facts.key_usage, facts.key_usage_critical) == (None, None, False)
    assert (facts.purposes, facts.uris, facts.is_authority) == (None, (), False)


@pytest.mark.parametrize("critical", [True, False])
def test_only_a_critical_extension_is_unprocessed(critical: bool) -> None:
    unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.55555.1"), b"\x05\x00")
    facts = Facts.of_certificate(forge(Ca().signer, extensions=[(unknown, critical)]))
    assert facts.unprocessed == (unknown.oid if critical else None)


class PanicError(BaseException):
    """Stands for the class that native code raises when it panics: no Exception, and none that can be imported."""


@pytest.mark.parametrize(
    "error",
    [ValueError("x"), TypeError("x"), OverflowError("x"), MemoryError(), x509.InvalidVersion("x", 3), PanicError()],
)
def test_whatever_the_library_raises_is_a_refusal(error: BaseException) -> None:
    def library() -> None:
        raise error

    with pytest.raises(VerificationError) as caught:
        shielded(library)
    assert caught.value.code is Refusal.CERTIFICATE_MALFORMED
    assert caught.value.__cause__ is error


@pytest.mark.parametrize(
    "error", [VerificationError(Refusal.EXPIRED, "x"), NoPathError("x"), KeyboardInterrupt(), SystemExit()]
)
def test_verdicts_and_the_end_of_the_process_pass_the_shield(error: BaseException) -> None:
    def library() -> None:
        raise error

    with pytest.raises(type(error)) as caught:
        shielded(library)
    assert caught.value is error


@pytest.mark.parametrize("serial", [b"\x00", b"\xff", b"\x80" + bytes(19)], ids=["zero", "minus-one", "negative"])
@pytest.mark.parametrize("action", ["error", "ignore"])
def test_serial_that_is_not_positive_is_refused_whatever_becomes_of_warnings(serial: bytes, action: str) -> None:
    """The library warns of such a serial, and a process may have made warnings into errors."""
    encoded = resign(forge(Ca().signer), keypair("authority example.org "), with_serial(serial))
    with warnings.catch_warnings():
        warnings.simplefilter(action)  # type: ignore[arg-type]  # one of its literals
        with pytest.raises(VerificationError) as caught:
            check_presented(Facts.of_der(encoded))
    expected = {"error": Refusal.CERTIFICATE_MALFORMED, "ignore": Refusal.SERIAL_INVALID}
    assert caught.value.code is expected[action]


def test_issuer_is_known_by_name_and_signature() -> None:
    ca, impostor = Ca(), Ca(key="impostor")
    leaf = Facts.of_certificate(ca.leaf().leaf)
    assert issued_by(leaf, Facts.of_certificate(ca.certificate))
    assert not issued_by(leaf, Facts.of_certificate(impostor.certificate))
    stranger = forge(Signer(name("stranger"), ca.key), subject="stranger", ca=True)
    assert not issued_by(leaf, Facts.of_certificate(stranger))
