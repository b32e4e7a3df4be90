from __future__ import annotations

import os
import stat
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from sidecar.keys import software
from sidecar.keys.create import PRIVATE, PUBLIC, create, demand_new, in_software, write_new
from sidecar.keys.errors import KeyCode, PrivateKeyError, SignCode, SignError
from sidecar.keys.open import open_signer
from sidecar.keys.protection import Protection
from sidecar.keys.selftest import self_test
from sidecar.keys.signer import CURVES
from sidecar.keys.spec import KeyFile, RemoteKey, TpmKey
from sidecar.keys.uri import Pkcs11Key

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.swtpm import Swtpm

tpm_needed = pytest.mark.needs("swtpm", "tpm2-pytss")
hsm_needed = pytest.mark.needs("softhsm", "python-pkcs11")


@pytest.fixture
def tpm() -> Iterator[Swtpm]:
    from tests.support.swtpm import Swtpm

    with Swtpm() as made:
        yield made
        assert made.transient_handles() == made.loaded_sessions() == []


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def refused(call: Any, *arguments: Any) -> KeyCode:
    with pytest.raises(PrivateKeyError) as caught:
        call(*arguments)
    assert caught.value.hint
    return KeyCode(caught.value.code)


@pytest.fixture(params=[0o022, 0o000, 0o277], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


# -- files ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("curve", CURVES)
def test_a_file(tmp_path: Path, umask: None, curve: type[ec.EllipticCurve]) -> None:
    made = create(KeyFile(tmp_path / "k"), curve, None)
    loaded = software.load((tmp_path / "k").read_bytes())
    assert loaded.public_key == made.public_key
    assert isinstance(made.public_key.curve, curve)
    assert made.protection is Protection.SOFTWARE
    assert mode(tmp_path / "k") == 0o600
    assert b"BEGIN PRIVATE KEY" in (tmp_path / "k").read_bytes(), "PKCS#8"
    self_test(open_signer(made.spec, made.secrets))


@pytest.mark.threat(60)
def test_threat_60_a_key_is_in_no_repr(tmp_path: Path) -> None:
    assert "PRIVATE" not in repr(create(KeyFile(tmp_path / "k"), ec.SECP256R1, None))


def occupied(path: Path, kind: str) -> None:
    if kind == "file":
        path.write_text("mine")
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to("nowhere" if kind == "dangling link" else "/dev/null")


@pytest.mark.parametrize("kind", ["file", "folder", "dangling link", "link to a device"])
def test_what_is_there_stays(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "k"
    occupied(path, kind)
    before = path.lstat()
    assert refused(create, KeyFile(path), ec.SECP256R1, None) is KeyCode.EXISTS
    assert refused(demand_new, path) is KeyCode.EXISTS
    assert path.lstat().st_ino == before.st_ino
    assert [each.name for each in tmp_path.iterdir()] == ["k"], "nor is it made where the link leads"


@pytest.mark.parametrize("parent", ["absent", "file"])
def test_a_folder_that_is_none(tmp_path: Path, parent: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="directory"):
        demand_new(tmp_path / parent / "k")
    with pytest.raises(OSError, match="directory"):
        create(KeyFile(tmp_path / parent / "k"), ec.SECP256R1, None)


def test_a_write_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_new(tmp_path / "k", b"data", PRIVATE)
    assert list(tmp_path.iterdir()) == []


def test_a_public_file(tmp_path: Path, umask: None) -> None:
    write_new(tmp_path / "r", b"data", PUBLIC)
    assert mode(tmp_path / "r") == 0o644


def test_a_service_makes_no_key(tmp_path: Path) -> None:
    assert refused(create, RemoteKey(tmp_path / "s"), ec.SECP256R1, None) is KeyCode.UNSUPPORTED


# -- a TPM ----------------------------------------------------------------------------------------------------------------


@tpm_needed
@pytest.mark.parametrize("pin", [None, b"1234"], ids=["no PIN", "PIN"])
@pytest.mark.parametrize("curve", CURVES)
def test_a_wrapped_key(
    tpm: Swtpm, tmp_path: Path, umask: None, curve: type[ec.EllipticCurve], pin: bytes | None
) -> None:
    spec = TpmKey(file=tmp_path / "k", tcti=tpm.tcti, copyable=True)
    made = create(spec, curve, pin)
    assert made.spec == replace(spec, copyable=False), "it needs no such permission"
    assert made.protection is Protection.TPM
    assert mode(tmp_path / "k") == 0o600
    assert made.secrets.pem == (tmp_path / "k").read_bytes()
    signer = open_signer(made.spec, made.secrets)
    self_test(signer)
    assert (signer.public_key, signer.protection) == (made.public_key, Protection.TPM)
    signer.close()
    assert tpm.persistent_handles() == []


@tpm_needed
def test_a_persistent_key(tpm: Swtpm) -> None:
    spec = TpmKey(handle=0x81000002, tcti=tpm.tcti)
    made = create(spec, ec.SECP256R1, None)
    assert tpm.persistent_handles() == [0x81000002]
    assert refused(create, spec, ec.SECP256R1, None) is KeyCode.EXISTS
    signer = open_signer(made.spec, made.secrets)
    assert signer.public_key == made.public_key
    signer.close()


@pytest.fixture
def no_tpm(monkeypatch: pytest.MonkeyPatch) -> list[TpmKey]:
    """What is asked of a TPM that is none."""
    from sidecar.keys.tpm import create as module

    asked: list[TpmKey] = []

    def make(spec: TpmKey, curve: object, pin: bytes | None) -> module.Created:
        asked.append(spec)
        if spec.file is not None:
            spec.file.write_text("faster")
        return module.Created(ec.generate_private_key(ec.SECP256R1()).public_key(), b"wrapped")

    monkeypatch.setattr(module, "create", make)
    return asked


@pytest.mark.parametrize("kind", ["file", "folder", "dangling link"])
def test_a_file_that_is_there_costs_the_tpm_nothing(no_tpm: list[TpmKey], tmp_path: Path, kind: str) -> None:
    occupied(tmp_path / "k", kind)
    assert refused(create, TpmKey(file=tmp_path / "k"), ec.SECP256R1, None) is KeyCode.EXISTS
    with pytest.raises(FileNotFoundError):
        create(TpmKey(file=tmp_path / "absent" / "k"), ec.SECP256R1, None)
    assert no_tpm == []


def test_a_file_that_comes_while_the_tpm_is_at_work(no_tpm: list[TpmKey], tmp_path: Path) -> None:
    assert refused(create, TpmKey(file=tmp_path / "k"), ec.SECP256R1, None) is KeyCode.EXISTS
    assert (tmp_path / "k").read_text() == "faster"
    assert len(no_tpm) == 1


@pytest.mark.needs("tpm2-pytss")
def test_a_tpm_that_is_not_there_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(SignError) as caught:
        create(TpmKey(file=tmp_path / "k", tcti="swtpm:path=/no/such/socket"), ec.SECP256R1, None)
    assert caught.value.code is SignCode.UNAVAILABLE
    assert list(tmp_path.iterdir()) == []


# -- a token --------------------------------------------------------------------------------------------------------------


@hsm_needed
def test_a_key_in_a_token() -> None:
    from tests.support.softhsm import PIN, SoftHsm

    with SoftHsm() as hsm:
        made = create(hsm.spec("k", query="&unsafe-copyable=true"), ec.SECP384R1, PIN)
        assert isinstance(made.spec, Pkcs11Key)
        assert made.spec.id is not None
        assert replace(made.spec, id=None) == hsm.spec("k")
        assert made.protection is Protection.HSM
        signer = open_signer(replace(made.spec, object=None), made.secrets)  # by the identifier alone
        self_test(signer)
        assert (signer.public_key, signer.protection) == (made.public_key, Protection.HSM)
        signer.close()
        assert refused(create, hsm.spec("k"), ec.SECP256R1, PIN) is KeyCode.EXISTS
        named = replace(hsm.spec("l"), id=b"\1\2")
        assert create(named, ec.SECP256R1, PIN).spec == named


# -- what a device is -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "known"),
    [
        (TpmKey(handle=0x81000002, tcti="swtpm:path=/no/such/socket"), True),
        (TpmKey(handle=0x81000002, tcti="mssim"), True),
        (Pkcs11Key(Path("/usr/lib/softhsm/libsofthsm2.so"), object="x"), True),
        (Pkcs11Key(Path("/usr/lib/yubihsm_pkcs11.so"), object="x"), False),
        (KeyFile(Path("/swtpm")), False),
        (RemoteKey(Path("/swtpm")), False),
    ],
    ids=str,
)
def test_programs_are_known_by_name(spec: Any, known: bool) -> None:
    assert in_software(spec) is known


@pytest.mark.needs("tpm2-pytss")
@pytest.mark.parametrize("tcti", ["device:/dev/no-such-tpm", "no-such-library:x"])
def test_a_tpm_that_does_not_say_is_not_called_one(tcti: str) -> None:
    assert in_software(TpmKey(handle=0x81000002, tcti=tcti)) is False


@tpm_needed
def test_a_program_is_known_by_what_it_says_of_itself(tpm: Swtpm) -> None:
    assert in_software(TpmKey(handle=0x81000002, tcti=f"libtss2-tcti-{tpm.tcti.replace(':', '.so.0:', 1)}"))
