from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.keys.errors import SignCode
from sidecar.keys.tpm.codes import TpmError, meaning, translated

ONCE, AGAIN = False, True


class RefusalError(Exception):
    def __init__(self, rc: int) -> None:
        super().__init__("in the library's words")
        self.rc = rc


class Library:
    TSS2_Exception = RefusalError


@pytest.mark.parametrize(
    ("rc", "code", "again"),
    [
        (0x98E, SignCode.AUTH, ONCE),  # AUTH_FAIL of session 1: a wrong PIN that the lockout counts
        (0x08E, SignCode.AUTH, ONCE),
        (0xA8E, SignCode.AUTH, ONCE),  # session 2
        (0x9A2, SignCode.AUTH, ONCE),  # BAD_AUTH of session 1: one that it does not count
        (0x1A2, SignCode.AUTH, ONCE),  # handle 1
        (0xC098E, SignCode.AUTH, ONCE),  # passed on by a resource manager
        (0x921, SignCode.LOCKOUT, ONCE),
        (0xB0921, SignCode.LOCKOUT, ONCE),
        (0x902, SignCode.FULL, ONCE),
        (0xB0902, SignCode.FULL, ONCE),  # tpm2-abrmd's own limit has the TPM's number
        (0x903, SignCode.FULL, ONCE),
        (0x905, SignCode.FULL, ONCE),
        (0x906, SignCode.FULL, ONCE),
        (0x14B, SignCode.FULL, ONCE),
        (0x18B, SignCode.NO_KEY, AGAIN),  # HANDLE 1: evicted
        (0x910, SignCode.NO_KEY, AGAIN),  # REFERENCE_H0: reset
        (0x916, SignCode.NO_KEY, AGAIN),
        (0x918, SignCode.NO_KEY, AGAIN),
        (0x1DF, SignCode.NO_KEY, ONCE),  # INTEGRITY of parameter 1: wrapped by another TPM
        (0x100, SignCode.UNAVAILABLE, AGAIN),
        (0x922, SignCode.UNAVAILABLE, ONCE),
        (0x90A, SignCode.UNAVAILABLE, ONCE),
        (0xA000A, SignCode.UNAVAILABLE, AGAIN),
        (0xA0015, SignCode.UNAVAILABLE, AGAIN),  # the TCTI's library is not installed
        (0x70007, SignCode.UNAVAILABLE, AGAIN),  # after an IO failure, for ever
        (0x80008, SignCode.UNAVAILABLE, AGAIN),
        (0x9000B, SignCode.FAILED, AGAIN),
        (0x101, SignCode.FAILED, ONCE),  # the TPM is in failure mode
        (0x2C4, SignCode.FAILED, ONCE),  # VALUE of parameter 2
        (0x917, SignCode.FAILED, ONCE),
        (0x12F, SignCode.FAILED, ONCE),
    ],
)
def test_each_row(rc: int, code: SignCode, again: bool) -> None:
    found = meaning(rc)
    assert (found.code, found.again) == (code, again)
    assert f"{rc:#x}" in found.words
    assert found.hint


@given(st.integers(0, 0xFFFFFFFF))
def test_any_number(rc: int) -> None:
    """Invariant: every number has a meaning, and no refusal of an authorisation is to be tried again."""
    found = meaning(rc)
    assert not (found.again and found.code in {SignCode.AUTH, SignCode.LOCKOUT})


@given(layer=st.sampled_from([0, 11, 12]), place=st.integers(0, 15), parameter=st.booleans())
def test_an_authorisation_failure_whatever_it_is_about(layer: int, place: int, parameter: bool) -> None:
    """Invariant: AUTH_FAIL and BAD_AUTH are told with any number of a handle, session or parameter."""
    for error in (0x8E, 0xA2):
        assert meaning(layer << 16 | place << 8 | parameter << 6 | error).code is SignCode.AUTH


def test_what_the_library_raises_becomes_ours() -> None:
    with pytest.raises(TpmError) as caught, translated(Library, "signing in the TPM"):
        raise RefusalError(0x98E)
    assert caught.value.code is SignCode.AUTH
    assert str(caught.value) == "signing in the TPM: the TPM refused the PIN, or wants one (0x98e)"
    assert not caught.value.again


def test_other_exceptions_pass() -> None:
    with pytest.raises(KeyError), translated(Library, "signing in the TPM"):
        raise KeyError
