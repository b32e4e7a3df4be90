"""What every signer does, whatever holds its key: the suite that a new kind of key has to pass."""

from __future__ import annotations

import gc
import threading
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from sidecar.keys.errors import SignCode, SignError
from sidecar.keys.messages import self_test_message
from sidecar.keys.selftest import check_signature, self_test
from sidecar.keys.signer import Hash, hash_for
from tests.support.signers import SUBJECTS, Subject, subject

if TYPE_CHECKING:
    from collections.abc import Iterator

CURVES = {"P-256": ec.SECP256R1, "P-384": ec.SECP384R1}
BLANKS = b" " * 64


@pytest.fixture(
    scope="module",
    params=[
        pytest.param((name, curve), id=f"{name}-{curve}", marks=pytest.mark.needs(*SUBJECTS[name][0]))
        for name in SUBJECTS
        for curve in CURVES
    ],
)
def each(request: pytest.FixtureRequest) -> Iterator[Subject]:
    name, curve = request.param
    with subject(name, CURVES[curve]) as made:
        yield made


def handshake(side: str, size: int) -> bytes:
    return BLANKS + f"TLS 1.3, {side} CertificateVerify\0".encode() + bytes(range(size))


def test_it_signs_what_a_handshake_asks_for(each: Subject) -> None:
    for side in ("server", "client"):
        for size in (32, 48):
            message, hash_ = handshake(side, size), hash_for(each.signer.public_key)
            signature = each.signer.sign(message, hash_)
            decode_dss_signature(signature)  # DER, and nothing behind it
            check_signature(each.signer.public_key, signature, message, hash_)


def test_it_passes_the_self_test(each: Subject) -> None:
    self_test(each.signer)


def test_both_hashes(each: Subject) -> None:
    # A device may refuse a digest longer than its curve takes; then it says so, and what it signs is right.
    for hash_ in Hash:
        message = self_test_message()
        try:
            signature = each.signer.sign(message, hash_)
        except SignError as error:
            assert hash_ is not hash_for(each.signer.public_key)
            assert error.code in {SignCode.FAILED, SignCode.REFUSED}  # noqa: PT017 - either outcome is right
        else:
            check_signature(each.signer.public_key, signature, message, hash_)


def test_a_signature_is_over_that_message_alone(each: Subject) -> None:
    hash_ = hash_for(each.signer.public_key)
    signature = each.signer.sign(self_test_message(), hash_)
    with pytest.raises(SignError) as caught:
        check_signature(each.signer.public_key, signature, self_test_message(), hash_)
    assert caught.value.code is SignCode.BAD_SIGNATURE


def test_it_says_how_the_key_is_protected(each: Subject) -> None:
    assert each.signer.protection is each.protection


def test_another_signer_of_the_same_key(each: Subject) -> None:
    again = each.reopen()
    try:
        assert again.public_key == each.signer.public_key
        self_test(again)
        self_test(each.signer)
    finally:
        again.close()
    self_test(each.signer)


def test_many_threads(each: Subject) -> None:
    failures: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(10):
                self_test(each.signer)
        except BaseException as error:  # noqa: BLE001 - seen below
            failures.append(error)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    assert failures == []


def test_after_close_it_signs_nothing(each: Subject) -> None:
    again = each.reopen()
    again.close()
    again.close()
    with pytest.raises(SignError) as caught:
        self_test(again)
    assert caught.value.code is SignCode.CLOSED
    self_test(each.signer)


def test_opened_and_closed_again_and_again(each: Subject) -> None:
    # A device has few slots: whatever is left behind by one shows after a few.
    for _ in range(8):
        again = each.reopen()
        self_test(again)
        again.close()
        del again
        gc.collect()
    self_test(each.signer)


CSR = (
    x509.CertificateSigningRequestBuilder()
    .subject_name(x509.Name([]))
    .sign(ec.derive_private_key(7, ec.SECP256R1()), Hash.SHA256.algorithm)
    .tbs_certrequest_bytes
)


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"anything",
        CSR,
        b"eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJ4In0",
        BLANKS + b"sidecar self-test\0" + bytes(31),
        BLANKS + b"sidecar self-test\0" + bytes(33),
        b" " * 63 + b"sidecar self-test\0" + bytes(32),
        BLANKS + b"TLS 1.3, server CertificateVerify\0" + bytes(31),
        BLANKS + b"TLS 1.3, server CertificateVerify\0" + bytes(64),
        BLANKS + b"TLS 1.3, server CertificateVerify" + bytes(32),
        BLANKS + b"TLS 1.2, server CertificateVerify\0" + bytes(32),
        BLANKS + b"TLS 1.3, proxy CertificateVerify\0" + bytes(32),
        b"x" + handshake("server", 32),
        handshake("server", 32) + b"\n",
    ],
    ids=lambda message: f"{len(message)}-{message.strip()[:20]!r}",
)
def test_what_is_no_handshake_and_no_self_test(each: Subject, message: bytes) -> None:
    """A particular signer refuses it by name; the others sign it, and right."""
    hash_ = hash_for(each.signer.public_key)
    if each.particular:
        with pytest.raises(SignError) as caught:
            each.signer.sign(message, hash_)
        assert caught.value.code is SignCode.REFUSED
        self_test(each.signer)  # and goes on
    else:
        signature = each.signer.sign(message, hash_)
        try:
            each.signer.public_key.verify(signature, message, ec.ECDSA(hash_.algorithm))
        except InvalidSignature:
            pytest.fail("not a signature over the message")
