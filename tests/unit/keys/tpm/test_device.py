"""How a TPM's troubles are met, with a TPM that has any trouble at will; `test_failures` has real ones."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed

from sidecar.keys.errors import KeyCode, PrivateKeyError, SignCode, SignError
from sidecar.keys.protection import Protection
from sidecar.keys.serial import SerialSigner
from sidecar.keys.signer import Hash
from sidecar.keys.spec import TpmKey
from sidecar.keys.tpm import library
from sidecar.keys.tpm.codes import BAD_SIGNATURE, TpmError, meaning
from sidecar.keys.tpm.device import FIRST_PAUSE, LONGEST_PAUSE, TpmDevice, open_device
from sidecar.keys.tpm.public import Attribute, PublicArea
from tests.support.ca import keypair

DIGEST = Hash.SHA256.digest(b"a message")
IO, GONE, AUTH, LOCKOUT, FULL, HANDLE, FAILURE = 0xA000A, 0x70007, 0x98E, 0x921, 0x902, 0x18B, 0x101
OURS = Attribute(0x40472)


def area(name: str = "in a TPM", attributes: Attribute = OURS) -> PublicArea:
    return PublicArea(keypair(name).public_key(), attributes, 32, name.encode())


def says(rc: int) -> TpmError:
    return TpmError(meaning(rc), "signing in the TPM")


@dataclass
class Tpm:
    """``signs`` and ``loads`` are the errors of the next calls; None, or nothing left, is success."""

    signs: list[SignError | None] = field(default_factory=list)
    loads: list[SignError | PrivateKeyError | None] = field(default_factory=list)
    area: PublicArea = field(default_factory=area)
    loaded: int = 0
    released: int = 0
    signed: int = 0

    def load(self) -> Key:
        if error := self.loads.pop(0) if self.loads else None:
            raise error
        self.loaded += 1
        return Key(self, self.area)


@dataclass
class Key:
    tpm: Tpm
    area: PublicArea

    def sign(self, digest: bytes, hash_: Hash) -> bytes:
        self.tpm.signed += 1
        if error := self.tpm.signs.pop(0) if self.tpm.signs else None:
            raise error
        return keypair("in a TPM").sign(digest, ec.ECDSA(Prehashed(hash_.algorithm)))

    def release(self) -> None:
        self.tpm.released += 1


class Monotonic:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def refused(device: TpmDevice) -> SignError:
    with pytest.raises(SignError) as caught:
        device.sign(DIGEST, Hash.SHA256)
    return caught.value


@pytest.mark.parametrize("error", [says(IO), says(GONE), says(HANDLE), says(0x910), TpmError(BAD_SIGNATURE, "signing")])
def test_what_a_new_connection_mends_is_tried_once_more(error: SignError) -> None:
    tpm = Tpm(signs=[error])
    device = TpmDevice(tpm.load)
    assert device.sign(DIGEST, Hash.SHA256)
    assert (tpm.signed, tpm.loaded, tpm.released) == (2, 2, 1)


@pytest.mark.parametrize("rc", [AUTH, 0x9A2, LOCKOUT, FULL, FAILURE])
def test_what_it_does_not_mend_is_tried_once_only(rc: int) -> None:
    tpm = Tpm(signs=[says(rc)])
    assert refused(TpmDevice(tpm.load)).code is meaning(rc).code
    assert (tpm.signed, tpm.loaded, tpm.released) == (1, 1, 0)


def test_a_refused_pin_after_a_reset_is_not_tried_again_either() -> None:
    tpm = Tpm(signs=[says(IO), says(AUTH)])
    assert refused(TpmDevice(tpm.load)).code is SignCode.AUTH
    assert tpm.signed == 2


def test_a_second_failure_ends_it() -> None:
    tpm, now = Tpm(signs=[says(IO), says(IO)]), Monotonic()
    device = TpmDevice(tpm.load, monotonic=now)
    assert refused(device).code is SignCode.UNAVAILABLE
    assert (tpm.signed, tpm.loaded, tpm.released) == (2, 2, 2)
    assert refused(device).code is SignCode.UNAVAILABLE  # at once
    assert tpm.loaded == 2
    now.now += FIRST_PAUSE
    assert device.sign(DIGEST, Hash.SHA256)


def test_a_signature_by_another_key_is_an_error_when_it_comes_twice() -> None:
    bad = TpmError(BAD_SIGNATURE, "signing")
    assert refused(TpmDevice(Tpm(signs=[bad, bad]).load)).code is SignCode.BAD_SIGNATURE


def test_a_tpm_that_is_gone_is_asked_ever_more_rarely() -> None:
    tpm, now = Tpm(signs=[says(IO)]), Monotonic()
    device = TpmDevice(tpm.load, monotonic=now)
    expected = FIRST_PAUSE
    for _ in range(10):
        tpm.loads = [says(IO)]
        assert refused(device).code is SignCode.UNAVAILABLE
        assert tpm.loads == []  # asked
        now.now += expected * 0.99
        tpm.loads = [says(IO)]
        assert refused(device).code is SignCode.UNAVAILABLE
        assert len(tpm.loads) == 1  # not asked
        now.now += expected * 0.02
        expected = min(expected * 2, LONGEST_PAUSE)
    tpm.loads = []
    assert device.sign(DIGEST, Hash.SHA256)
    # Once it works again, the next failure begins with the shortest pause.
    tpm.signs, tpm.loads = [says(IO)], [says(IO)]
    refused(device)
    now.now += FIRST_PAUSE
    assert device.sign(DIGEST, Hash.SHA256)


def test_while_it_is_not_asked_it_says_what_it_last_said() -> None:
    tpm = Tpm(signs=[says(IO)], loads=[None, says(FULL)])
    device = TpmDevice(tpm.load, monotonic=Monotonic())
    first, second = refused(device), refused(device)
    assert first.code is second.code is SignCode.FULL
    assert str(first) == str(second)
    assert first is not second


@pytest.mark.parametrize("other", [area("another"), area(attributes=OURS & ~Attribute.FIXED_TPM)])
def test_another_key_in_its_place(other: PublicArea) -> None:
    tpm, now = Tpm(signs=[says(HANDLE)]), Monotonic()
    device = TpmDevice(tpm.load, monotonic=now)
    tpm.area = PublicArea(other.key, other.attributes, 32, b"something else")
    assert refused(device).code is SignCode.NO_KEY
    assert (tpm.signed, tpm.released) == (1, 2)
    assert device.public_key == keypair("in a TPM").public_key()
    # Our key comes back.
    tpm.area, now.now = area(), now.now + FIRST_PAUSE
    assert device.sign(DIGEST, Hash.SHA256)


def test_an_object_of_another_kind_in_its_place() -> None:
    tpm = Tpm(signs=[says(HANDLE)], loads=[None, PrivateKeyError(KeyCode.UNSUPPORTED, "an RSA key")])
    assert refused(TpmDevice(tpm.load)).code is SignCode.NO_KEY


def test_a_key_that_is_refused_is_let_go_of() -> None:
    tpm = Tpm(area=area(attributes=OURS & ~Attribute.FIXED_PARENT))
    with pytest.raises(PrivateKeyError) as caught:
        TpmDevice(tpm.load)
    assert caught.value.code is KeyCode.COPYABLE
    assert tpm.released == 1
    assert TpmDevice(tpm.load, copyable=True).protection is Protection.SOFTWARE


def test_closed() -> None:
    tpm = Tpm()
    device = TpmDevice(tpm.load)
    device.close()
    device.close()
    assert tpm.released == 1
    assert refused(device).code is SignCode.CLOSED
    assert tpm.loaded == 1


def test_a_refused_pin_reaches_the_tpm_once_whoever_asks_again() -> None:
    tpm = Tpm(signs=[says(AUTH)])
    signer = SerialSigner(TpmDevice(tpm.load))
    for _ in range(3):
        with pytest.raises(SignError) as caught:
            signer.sign(b"a message", Hash.SHA256)
        assert caught.value.code is SignCode.AUTH
    assert tpm.signed == 1


@pytest.mark.parametrize("name", ["tpm2_pytss", "tpm2_pytss._libtpm2_pytss"])
def test_a_missing_library(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for loaded in [module for module in sys.modules if module.partition(".")[0] == "tpm2_pytss"]:
        monkeypatch.delitem(sys.modules, loaded)
    monkeypatch.setitem(sys.modules, name, None)  # makes its import fail
    with pytest.raises(PrivateKeyError) as caught:
        open_device(TpmKey(handle=0x81000002), None, None)
    assert caught.value.code is KeyCode.NO_LIBRARY
    assert "apt-get install libtss2-dev" in caught.value.hint
    assert "agent-sidecar[tpm]" in caught.value.hint


@pytest.mark.needs("tpm2-pytss")
@pytest.mark.parametrize("value", [None, "all+error"])
def test_the_library_is_silent_unless_it_is_told_to_speak(value: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TSS2_LOG", raising=False)
    if value is not None:
        monkeypatch.setenv("TSS2_LOG", value)
    library.load()
    assert os.environ["TSS2_LOG"] == (value or "all+NONE")


@pytest.mark.needs("tpm2-pytss")
@pytest.mark.parametrize(
    "tcti", [None, "device:/dev/no-such-tpm", "swtpm:path=/no/such/socket", "no-such-library:x", "swtpm:nonsense"]
)
def test_a_missing_device(tcti: str | None, capfd: pytest.CaptureFixture[str]) -> None:
    if tcti is None and Path("/dev/tpmrm0").exists():
        pytest.skip("this machine has a TPM")
    with pytest.raises(SignError) as caught:
        open_device(TpmKey(handle=0x81000002, tcti=tcti), None, None)
    assert caught.value.code is SignCode.UNAVAILABLE
    assert (tcti or "device:/dev/tpmrm0") in str(caught.value)
    assert all(word in caught.value.hint for word in ("tcti=", "group tss", "/dev/tpmrm0"))
    assert capfd.readouterr() == ("", "")


@pytest.mark.needs("tpm2-pytss")
def test_a_file_that_is_no_wrapped_key_is_refused_before_the_tpm_is_asked() -> None:
    spec = TpmKey(file=Path("/not-read"), tcti="swtpm:path=/no/such/socket")
    for pem, code in ((None, KeyCode.NO_KEY), (b"", KeyCode.NO_KEY), (b"-----BEGIN", KeyCode.GARBAGE)):
        with pytest.raises(PrivateKeyError) as caught:
            open_device(spec, pem, None)
        assert caught.value.code is code
