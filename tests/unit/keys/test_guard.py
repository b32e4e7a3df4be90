from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from sidecar.keys import software
from sidecar.keys.errors import SignCode, SignError
from sidecar.keys.guard import GuardedSigner
from sidecar.keys.messages import self_test_message
from sidecar.keys.protection import Protection
from sidecar.keys.serial import SerialSigner
from sidecar.keys.signer import Hash
from tests.support.ca import key_pem, keypair

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import ec


class Faulty:
    """A signer that fails as it is told, and counts who asks."""

    def __init__(self) -> None:
        self._signer = software.SoftwareSigner(software.load(key_pem(keypair("guarded"))))
        self.public_key: ec.EllipticCurvePublicKey = self._signer.public_key
        self.protection = Protection.HSM
        self.fail: SignCode | None = None
        self.asked = 0
        self.closed = False

    def sign(self, message: bytes, hash_: Hash) -> bytes:
        self.asked += 1
        if self.fail is not None:
            raise SignError(self.fail, "as the test says", hint="a hint")
        return self._signer.sign(message, hash_)

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def signer() -> Faulty:
    return Faulty()


@pytest.fixture
def told() -> list[SignCode | None]:
    return []


@pytest.fixture
def guarded(signer: Faulty, told: list[SignCode | None]) -> GuardedSigner:
    return GuardedSigner(signer, lambda _, code: told.append(code))


def sign(guarded: GuardedSigner) -> bytes:
    return guarded.sign(self_test_message(), Hash.SHA256)


def failed(guarded: GuardedSigner) -> SignError:
    with pytest.raises(SignError) as caught:
        sign(guarded)
    return caught.value


def test_it_is_the_signer_within(guarded: GuardedSigner, signer: Faulty, told: list[SignCode | None]) -> None:
    assert sign(guarded)
    assert (guarded.public_key, guarded.protection) == (signer.public_key, signer.protection)
    assert guarded.trouble is None
    assert told == [None]
    guarded.close()
    assert signer.closed


@pytest.mark.parametrize("code", [code for code in SignCode if code is not SignCode.CLOSED])
def test_after_a_failure_nobody_is_let_through_until_a_probe_succeeds(
    guarded: GuardedSigner, signer: Faulty, told: list[SignCode | None], code: SignCode
) -> None:
    signer.fail = code
    assert failed(guarded).code is code
    assert guarded.trouble is code
    signer.fail = None
    again = failed(guarded)
    assert (again.code, str(again), again.hint) == (code, "as the test says", "a hint")
    assert (signer.asked, told) == (1, [code])
    guarded.probe()
    assert guarded.trouble is None
    assert sign(guarded)
    assert told == [code, None, None]


def test_a_probe_that_fails_leaves_it_as_it_was(guarded: GuardedSigner, signer: Faulty) -> None:
    signer.fail = SignCode.UNAVAILABLE
    failed(guarded)
    signer.fail = SignCode.NO_KEY
    with pytest.raises(SignError):
        guarded.probe()
    assert guarded.trouble is SignCode.NO_KEY
    assert failed(guarded).code is SignCode.NO_KEY


def test_a_signature_by_another_key_is_trouble(guarded: GuardedSigner, signer: Faulty) -> None:
    signer._signer = software.SoftwareSigner(software.load(key_pem(keypair("another"))))
    assert failed(guarded).code is SignCode.BAD_SIGNATURE
    with pytest.raises(SignError):
        guarded.probe()
    assert guarded.trouble is SignCode.BAD_SIGNATURE


def test_what_nobody_expects_is_trouble_by_its_kind_alone(
    guarded: GuardedSigner, signer: Faulty, told: list[SignCode | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(message: bytes, hash_: Hash) -> bytes:
        raise OSError("secret")

    monkeypatch.setattr(signer, "sign", broken)
    error = failed(guarded)
    assert (error.code, str(error)) == (SignCode.FAILED, "unexpected OSError while signing")
    assert (guarded.trouble, told) == (SignCode.FAILED, [SignCode.FAILED])
    monkeypatch.undo()
    guarded.probe()
    assert guarded.trouble is None


def test_a_service_that_refuses_a_token_is_asked_for_handshakes_all_the_same(
    guarded: GuardedSigner, signer: Faulty, told: list[SignCode | None]
) -> None:
    signer.fail = SignCode.REFUSED
    with pytest.raises(SignError):
        guarded.sign(b"eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJtZSJ9", Hash.SHA256)
    assert (guarded.trouble, told) == (None, [SignCode.REFUSED])
    signer.fail = None
    assert sign(guarded)


def test_what_was_closed_is_no_trouble_of_the_device(guarded: GuardedSigner, signer: Faulty) -> None:
    signer.fail = SignCode.CLOSED
    failed(guarded)
    assert guarded.trouble is None


def test_a_failure_is_raised_anew_each_time(guarded: GuardedSigner, signer: Faulty) -> None:
    signer.fail = SignCode.UNAVAILABLE
    errors = [failed(guarded) for _ in range(4)]
    assert len({id(error) for error in errors}) == 4
    assert guarded._trouble is not None
    assert guarded._trouble.__traceback__ is None


def test_a_call_that_hangs_is_trouble_before_it_returns() -> None:
    class Device:
        public_key = Faulty().public_key
        protection = Protection.TPM

        def sign(self, digest: bytes, hash_: Hash) -> bytes:
            clock[0] += 10
            seen.append(guarded.trouble)
            clock[0] -= 10
            return software.SoftwareSigner(software.load(key_pem(keypair("guarded")))).sign(message, Hash.SHA256)

        def close(self) -> None: ...

    clock, seen = [100.0], list[SignCode | None]()
    message = self_test_message()
    guarded = GuardedSigner(SerialSigner(Device(), limit=3, monotonic=lambda: clock[0]), lambda *_: None)
    assert guarded.sign(message, Hash.SHA256)
    assert seen == [SignCode.TIMEOUT]
    assert guarded.trouble is None
