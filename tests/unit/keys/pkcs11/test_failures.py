from __future__ import annotations

import struct

import pytest
from pkcs11 import exceptions as ckr

from sidecar.keys.errors import SignCode, SignError
from sidecar.keys.pkcs11.failures import lost, sign_error, translated

EVERY = [kind for kind in vars(ckr).values() if isinstance(kind, type) and issubclass(kind, ckr.PKCS11Error)]


@pytest.mark.parametrize("kind", EVERY, ids=lambda kind: kind.__name__)
def test_every_return_code_has_a_name_and_none_of_the_text(kind: type[ckr.PKCS11Error]) -> None:
    error = sign_error(kind("secret text"))
    assert isinstance(error.code, SignCode)
    assert kind.__name__ in str(error)
    assert "secret" not in f"{error} {error.hint}"
    assert lost(kind()) is (error.code is SignCode.UNAVAILABLE)


def test_what_a_new_session_may_mend() -> None:
    assert {kind.__name__ for kind in EVERY if lost(kind())} == {
        "GeneralError",
        "FunctionFailed",
        "DeviceError",
        "DeviceRemoved",
        "TokenNotPresent",
        "TokenNotRecognised",
        "SlotIDInvalid",
        "SessionHandleInvalid",
        "SessionClosed",
        "UserNotLoggedIn",
        "KeyHandleInvalid",
        "ObjectHandleInvalid",
        "OperationActive",
        "OperationNotInitialized",
    }


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Unmapped error code 0x80000001", "0x80000001"),
        ("0x190", "0x190"),
        ("PIN 1234 is wrong", "PKCS11Error"),
        ("", "PKCS11Error"),
    ],
)
def test_a_code_without_a_name(text: str, name: str) -> None:
    error = sign_error(ckr.PKCS11Error(text))
    assert (error.code, str(error)) == (SignCode.FAILED, f"the token with our private key failed ({name})")


@pytest.mark.parametrize("error", [ValueError("x"), struct.error("x"), UnicodeDecodeError("utf-8", b"x", 0, 1, "x")])
def test_attributes_that_the_library_cannot_unpack(error: Exception) -> None:
    with pytest.raises(SignError) as caught, translated():
        raise error
    assert (caught.value.code, str(caught.value)) == (
        SignCode.FAILED,
        "the token answers what PKCS#11 does not know",
    )


def test_our_own_errors_pass() -> None:
    ours = SignError(SignCode.NO_KEY, "gone")
    with pytest.raises(SignError) as caught, translated():
        raise ours
    assert caught.value is ours
