from __future__ import annotations

from sidecar.errors import Fault
from sidecar.keys.errors import FINAL, KeyCode, PrivateKeyError, SignCode, SignError


def test_codes_are_of_one_family_each_and_never_shared() -> None:
    assert all(code.startswith("key_") for code in KeyCode)
    assert all(code.startswith("signer_") for code in SignCode)


def test_whose_fault() -> None:
    assert PrivateKeyError(KeyCode.NO_KEY, "x").fault is Fault.CONFIGURATION
    assert SignError(SignCode.TIMEOUT, "x").fault is Fault.LOCAL


def test_what_trying_again_cannot_mend() -> None:
    # A locked token may be unlocked, and a device may come back; a refused PIN stays one.
    assert {SignCode.AUTH, SignCode.CLOSED} == FINAL
