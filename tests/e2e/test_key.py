"""Ensures that `sidecar key` makes keys that cannot be taken out of real devices, and says so of real programs.

Each test is a user's session with a TPM (swtpm) or a token (SoftHSM): a key is made once, never over another one; what
is printed can be written in `identity.key`; a device that refuses, is absent or hangs is told in one line.
"""

from __future__ import annotations

import os
import re
import stat
import subprocess
from typing import TYPE_CHECKING

import pytest
from cryptography import x509

from sidecar.identity.pins import Pin
from tests.support.processes import COMMAND

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.softhsm import SoftHsm
    from tests.support.swtpm import Swtpm

tpm_needed = pytest.mark.needs("swtpm", "tpm2-pytss")
hsm_needed = pytest.mark.needs("softhsm", "python-pkcs11")
ID = "spiffe://example.org/agent/planner/1"
SOFTWARE_TPM = "tpm: a software TPM: whoever can read the files of that program can copy the key; for tests"
SOFTWARE_TOKEN = "hsm: a software token: whoever can read the files of that program can copy the key; for tests"


@pytest.fixture
def tpm() -> Iterator[Swtpm]:
    from tests.support.swtpm import Swtpm

    with Swtpm() as made:
        yield made


@pytest.fixture
def hsm() -> Iterator[SoftHsm]:
    from tests.support.softhsm import SoftHsm

    with SoftHsm() as made:
        yield made


def key(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [*COMMAND, "key", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, "SIDECAR_DEBUG": ""},
    )
    assert "Traceback" not in done.stderr
    return done


def fine(folder: Path, *arguments: str) -> dict[str, str]:
    """What a command printed: the word at the beginning of each line, and the rest."""
    done = key(folder, *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    return dict(line.split(maxsplit=1) for line in done.stdout.splitlines())


def refused(folder: Path, code: int, *arguments: str) -> str:
    done = key(folder, *arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.startswith("sidecar: ")
    return done.stderr


def verified(request: Path, said: dict[str, str]) -> bool:
    """Says whether openssl, too, takes a request for one by the key that was printed."""
    done = subprocess.run(
        ["openssl", "req", "-verify", "-noout", "-in", str(request), "-text"],
        capture_output=True,
        text=True,
        check=True,
    )
    made = x509.load_pem_x509_csr(request.read_bytes())
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    pin = Pin.of_spki(made.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
    return "verify OK" in done.stderr and f"URI:{ID}" in done.stdout and str(pin) == said["pin"]


def signs(said: dict[str, str]) -> bool:
    return re.fullmatch(r"yes, in \d+\.\d ms", said["signs"]) is not None


# -- a TPM ----------------------------------------------------------------------------------------------------------------


@tpm_needed
@pytest.mark.needs("openssl")
@pytest.mark.parametrize("curve", ["P-256", "P-384"])
@pytest.mark.parametrize("where", ["file=k.tpm.pem", "handle=0x81000002"])
def test_a_key_in_a_tpm(tpm: Swtpm, tmp_path: Path, where: str, curve: str) -> None:
    (tmp_path / "pin").touch(mode=0o600)
    (tmp_path / "pin").write_text("1234\n")
    place = f"tpm:{where};tcti={tpm.tcti};pin-source=file:pin"
    made = fine(tmp_path, "create", place, "--curve", curve, "--csr", "r", "--spiffe-id", ID)
    assert made["key"] == place.replace("k.tpm.pem", f"{tmp_path}/k.tpm.pem").replace(":pin", f":{tmp_path}/pin")
    assert (made["curve"], made["protection"]) == (curve, SOFTWARE_TPM)
    assert verified(tmp_path / "r", made)
    shown = fine(tmp_path, "show", made["key"], "--csr", "later", "--spiffe-id", ID)
    assert signs(shown)
    assert {name: shown[name] for name in made} == made
    assert verified(tmp_path / "later", made)
    assert tpm.transient_handles() == tpm.loaded_sessions() == []
    assert tpm.persistent_handles() == ([0x81000002] if "handle" in where else [])
    if "file" in where:
        assert stat.S_IMODE((tmp_path / "k.tpm.pem").stat().st_mode) == 0o600


@tpm_needed
def test_what_is_there_stays(tpm: Swtpm, tmp_path: Path) -> None:
    from tests.support.swtpm import SlowRelay

    file, handle = f"tpm:file=k;tcti={tpm.tcti}", f"tpm:handle=0x81000002;tcti={tpm.tcti}"
    before = fine(tmp_path, "create", file)["pin"], fine(tmp_path, "create", handle)["pin"]
    with SlowRelay(tpm) as relay:
        assert f"there is a file {tmp_path}/k already" in refused(
            tmp_path, 2, "create", f"tpm:file=k;tcti={relay.tcti}"
        )
        assert not relay.commands, "no key was made for nothing"
    assert "there is an object at 0x81000002 already" in refused(tmp_path, 2, "create", handle)
    assert (fine(tmp_path, "show", file)["pin"], fine(tmp_path, "show", handle)["pin"]) == before


@tpm_needed
def test_a_wrong_pin_is_tried_once(tpm: Swtpm, tmp_path: Path) -> None:
    pin = tmp_path / "pin"
    pin.touch(mode=0o600)
    pin.write_text("1234\n")
    place = f"tpm:file=k;tcti={tpm.tcti};pin-source=file:pin"
    fine(tmp_path, "create", place)
    pin.write_text("1235\n")
    said = refused(tmp_path, 2, "show", place, "--csr", "r")
    assert "the TPM refused the PIN" in said
    assert "123" not in said
    assert tpm.lockout_counter() == 1
    assert not (tmp_path / "r").exists()


@tpm_needed
@pytest.mark.parametrize("action", ["create", "show"])
def test_no_tpm(tpm: Swtpm, tmp_path: Path, action: str) -> None:
    place = f"tpm:file=k;tcti={tpm.tcti}"
    if action == "show":
        fine(tmp_path, "create", place)
    before = list(tmp_path.iterdir())
    tpm.stop()
    assert "the TPM cannot be reached" in refused(tmp_path, 1, action, place)
    assert list(tmp_path.iterdir()) == before


@tpm_needed
def test_a_tpm_that_hangs(tpm: Swtpm, tmp_path: Path) -> None:
    place = f"tpm:file=k;tcti={tpm.tcti}"
    fine(tmp_path, "create", place)
    tpm.hang()
    assert "did not answer within 8 s" in refused(tmp_path, 1, "show", place)
    tpm.resume()
    assert signs(fine(tmp_path, "show", place))


@tpm_needed
def test_the_key_of_another_tpm(tpm: Swtpm, tmp_path: Path) -> None:
    from tests.support.swtpm import Swtpm

    fine(tmp_path, "create", f"tpm:file=k;tcti={tpm.tcti}")
    with Swtpm() as other:
        assert "the TPM did not make this wrapped key" in refused(tmp_path, 1, "show", f"tpm:file=k;tcti={other.tcti}")


# -- a token --------------------------------------------------------------------------------------------------------------


@hsm_needed
@pytest.mark.needs("openssl")
@pytest.mark.parametrize("curve", ["P-256", "P-384"])
def test_a_key_in_a_token(hsm: SoftHsm, tmp_path: Path, curve: str) -> None:
    made = fine(tmp_path, "create", hsm.uri("k"), "--curve", curve, "--csr", "r", "--spiffe-id", ID)
    assert re.search(r";object=k;id=(%[0-9A-F]{2}){16};type=private\?module-path=", made["key"])
    assert (made["curve"], made["protection"]) == (curve, SOFTWARE_TOKEN)
    assert verified(tmp_path / "r", made)
    for place in (made["key"], hsm.uri("k")):
        shown = fine(tmp_path, "show", place)
        assert signs(shown)
        assert (shown["pin"], shown["protection"]) == (made["pin"], SOFTWARE_TOKEN)
    assert "nothing is overwritten" in refused(tmp_path, 2, "create", hsm.uri("k"))
    assert fine(tmp_path, "show", made["key"])["pin"] == made["pin"]


@hsm_needed
def test_a_wrong_pin_of_a_token(hsm: SoftHsm, tmp_path: Path) -> None:
    fine(tmp_path, "create", hsm.uri("k"))
    hsm.pin_file.write_text("wrong\n")
    for action in ("show", "create"):
        assert "PIN" in refused(tmp_path, 2, action, hsm.uri("k"))
    hsm.pin_file.unlink()
    assert "does not exist" in refused(tmp_path, 2, "show", hsm.uri("k"))


@hsm_needed
def test_no_such_key_and_no_such_token(hsm: SoftHsm, tmp_path: Path) -> None:
    assert "no private key that is labelled 'k'" in refused(tmp_path, 2, "show", hsm.uri("k"))
    for action in ("show", "create"):
        assert "is not there" in refused(tmp_path, 1, action, hsm.uri("k", token="other"))
