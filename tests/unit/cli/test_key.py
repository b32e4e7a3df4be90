from __future__ import annotations

import re
import stat
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from sidecar.cli import key as module
from sidecar.cli import main
from sidecar.cli.key import explained, within
from sidecar.identity.pins import Pin
from sidecar.keys import software
from sidecar.keys.errors import SignCode, SignError
from sidecar.keys.protection import Protection
from sidecar.keys.serial import SerialSigner
from sidecar.keys.spec import KeyFile, RemoteKey, TpmKey
from sidecar.keys.uri import Pkcs11Key
from tests.support.signer_service import Served, StuckDevice, software_signer

if TYPE_CHECKING:
    from collections.abc import Iterator

ID = "spiffe://example.org/agent/planner/1"
PIN = "a PIN that nobody may see"
FACTS = r"key         {key}\ncurve       {curve}\npin         (sha256:\S{{44}})\nprotection  {protection}\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Any:
    """Runs a command that must end with that code; gives what it printed."""

    def run(code: int, *command: str) -> str:
        assert main(["key", *command]) == code
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        assert "internal error" not in err
        assert bool(err) is (code != 0)
        return str(err or out)

    return run


def expected(key: object, protection: str, curve: str = "P-256") -> str:
    return FACTS.format(key=re.escape(str(key)), curve=curve, protection=re.escape(protection))


def pin_file(folder: Path, text: str = PIN) -> Path:
    path = folder / "pin"
    path.touch(mode=0o600)
    path.write_text(text)
    return path


COPY = "software: whoever can read the file can copy it"


@pytest.mark.parametrize("curve", ["P-256", "P-384"])
def test_a_key_in_a_file(folder: Path, said: Any, curve: str) -> None:
    made = re.fullmatch(expected(folder / "k", COPY, curve), said(0, "create", "k", "--curve", curve))
    assert made
    assert stat.S_IMODE((folder / "k").stat().st_mode) == 0o600
    shown = re.fullmatch(
        expected(folder / "k", COPY, curve) + r"signs       yes, in \d+\.\d ms\n", said(0, "show", "k")
    )
    assert shown
    assert made[1] == shown[1]
    key = software.load((folder / "k").read_bytes())
    assert isinstance(key.public_key.curve, ec.SECP256R1 if curve == "P-256" else ec.SECP384R1)


def test_nothing_is_overwritten(folder: Path, said: Any) -> None:
    (folder / "k").write_text("mine")
    assert str(folder / "k") in said(2, "create", "k")
    assert (folder / "k").read_text() == "mine"


def test_a_service_makes_no_key(said: Any) -> None:
    assert "where the service runs" in said(2, "create", "signer:unix:s")


def test_a_folder_that_is_not_there(folder: Path, said: Any) -> None:
    assert said(1, "create", "absent/k") == f"sidecar: No such file or directory {folder}/absent/k\n"


@pytest.mark.parametrize(
    "place", ["", "tpm:", "tpm:handle=1", "pkcs11:object=x", "pkcs11:object=x?module-path=/m&pin-value=1", "foo:x"]
)
@pytest.mark.parametrize("action", ["create", "show"])
def test_what_is_no_place(folder: Path, said: Any, action: str, place: str) -> None:
    said(2, action, place)
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("action", ["create", "show"])
@pytest.mark.parametrize(
    "spiffe_id", ["", "planner", "spiffe://example.org", "spiffe://Example.org/a", "spiffe://a/b/"]
)
def test_what_is_no_spiffe_id(folder: Path, capsys: pytest.CaptureFixture[str], action: str, spiffe_id: str) -> None:
    assert main(["key", action, "k", "--csr", "r", "--spiffe-id", spiffe_id]) == 2
    assert "--spiffe-id" in capsys.readouterr().err
    assert list(folder.iterdir()) == []


def test_a_spiffe_id_without_a_request(folder: Path, said: Any) -> None:
    assert "--csr" in said(2, "create", "k", "--spiffe-id", ID)
    assert list(folder.iterdir()) == []


# -- requests -------------------------------------------------------------------------------------------------------------


def names(pem: bytes) -> list[str]:
    made = x509.load_pem_x509_csr(pem)
    assert made.is_signature_valid
    return [
        name.value
        for extension in made.extensions
        if isinstance(extension.value, x509.SubjectAlternativeName)
        for name in extension.value
    ]


@pytest.mark.parametrize("spiffe_id", [ID, None])
def test_a_request_when_the_key_is_made_and_later(folder: Path, said: Any, spiffe_id: str | None) -> None:
    named = ["--spiffe-id", spiffe_id] if spiffe_id else []
    said(0, "create", "k", "--csr", "first", *named)
    said(0, "show", "k", "--csr", "second", *named)
    for file in ("first", "second"):
        assert names((folder / file).read_bytes()) == ([spiffe_id] if spiffe_id else [])
        assert stat.S_IMODE((folder / file).stat().st_mode) == 0o644
        request = x509.load_pem_x509_csr((folder / file).read_bytes())
        assert request.public_key() == software.load((folder / "k").read_bytes()).public_key


@pytest.mark.parametrize("action", ["create", "show"])
def test_a_request_on_stdout_is_alone_there(folder: Path, capsys: pytest.CaptureFixture[str], action: str) -> None:
    if action == "show":
        assert main(["key", "create", "k"]) == 0
        capsys.readouterr()
    assert main(["key", action, "k", "--csr", "-"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("-----BEGIN CERTIFICATE REQUEST-----\n")
    assert out.endswith("-----END CERTIFICATE REQUEST-----\n")
    assert names(out.encode()) == []
    assert "pin         sha256:" in err


def test_a_request_never_takes_the_place_of_a_file(folder: Path, said: Any) -> None:
    said(0, "create", "k")
    key = (folder / "k").read_bytes()
    said(2, "show", "k", "--csr", "k")
    said(2, "create", "other", "--csr", "k")
    assert (folder / "k").read_bytes() == key
    assert not (folder / "other").exists(), "found out before a key was made"
    assert said(1, "create", "other", "--csr", "absent/r") == "sidecar: No such file or directory absent\n"
    assert not (folder / "other").exists()


def test_a_request_that_fails_leaves_the_key(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["key", "create", "k", "--csr", "k"]) == 1
    out, err = capsys.readouterr()
    assert re.fullmatch(expected(folder / "k", COPY), out)
    assert err.startswith("sidecar: the key was made and stays, but no request was written: there is a file k already")
    assert "sidecar key show" in err
    assert software.load((folder / "k").read_bytes())
    assert main(["key", "show", "k", "--csr", "r"]) == 0


def test_a_device_that_fails_at_the_request_leaves_the_key(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: object) -> None:
        raise SignError(SignCode.UNAVAILABLE, "the device is gone")

    monkeypatch.setattr(module, "open_signer", gone)
    assert main(["key", "create", "k", "--csr", "r"]) == 1
    out, err = capsys.readouterr()
    assert re.fullmatch(expected(folder / "k", COPY), out)
    assert "the key was made and stays, but no request was written: the device is gone" in err
    assert [each.name for each in folder.iterdir()] == ["k"]


# -- services and devices -------------------------------------------------------------------------------------------------


@pytest.fixture
def served(folder: Path) -> Iterator[Served]:
    with Served(software_signer(ec.SECP384R1), folder / "s") as made:
        yield made


def test_a_key_behind_a_service(served: Served, folder: Path, said: Any) -> None:
    sentence = "remote: behind a signer service, which says for itself what protects it"
    shown = said(0, "show", "signer:unix:s")
    assert re.fullmatch(expected(f"signer:unix:{folder}/s", sentence, "P-384") + r"signs       yes, in .*\n", shown)


def test_a_service_signs_no_request(served: Served, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["key", "show", "signer:unix:s", "--csr", "r", "--spiffe-id", ID]) == 1
    out, err = capsys.readouterr()
    assert "signs       yes" in out
    assert "no signer service signs that" in err or "refused" in err
    assert not (folder / "r").exists()


def test_a_service_that_is_not_there(said: Any) -> None:
    assert "start it" in said(1, "show", "signer:unix:absent")


@pytest.fixture
def stuck(monkeypatch: pytest.MonkeyPatch) -> Iterator[StuckDevice]:
    device = StuckDevice()
    monkeypatch.setattr(module, "open_signer", lambda *_: SerialSigner(device))
    monkeypatch.setattr(module, "OPEN_SECONDS", 0.05)
    monkeypatch.setattr(module, "SIGN_SECONDS", 0.05)
    yield device
    device.go_on.set()


def test_a_device_that_hangs(stuck: StuckDevice, said: Any) -> None:
    text = said(1, "show", "tpm:handle=0x81000002")
    assert text.startswith("sidecar: tpm:handle=0x81000002 did not answer within 0.1 s\n")
    assert stuck.stuck.is_set()


def test_a_call_that_hangs_costs_a_thread_that_keeps_nobody() -> None:
    go_on = threading.Event()
    before = set(threading.enumerate())
    with pytest.raises(SignError) as caught:
        within(go_on.wait, 0.01, "it")
    assert caught.value.code is SignCode.TIMEOUT
    (left,) = set(threading.enumerate()) - before
    assert left.daemon
    go_on.set()
    left.join()


def test_one_signature_and_the_device_is_let_go_of(monkeypatch: pytest.MonkeyPatch, said: Any) -> None:
    device = StuckDevice()
    device.go_on.set()
    closed: list[None] = []
    monkeypatch.setattr(device, "close", lambda: closed.append(None))
    monkeypatch.setattr(module, "open_signer", lambda *_: SerialSigner(device))
    monkeypatch.setattr(module, "in_software", lambda _: False)
    shown = said(0, "show", "tpm:handle=0x81000002")
    assert "protection  tpm: the key cannot leave the TPM\n" in shown
    assert (device.calls, len(closed)) == (1, 1)


@pytest.mark.needs("tpm2-pytss")
@pytest.mark.parametrize("action", ["create", "show"])
def test_no_tpm(folder: Path, said: Any, action: str) -> None:
    pin_file(folder)
    place = "tpm:handle=0x81000002;tcti=swtpm:path=/no/such/socket;pin-source=file:pin"
    assert "the TPM cannot be reached" in said(1, action, place)


@pytest.mark.parametrize("action", ["create", "show"])
@pytest.mark.parametrize(
    ("content", "mode", "words"),
    [
        (None, 0, "does not exist"),
        ("", 0o600, "one PIN"),
        ("a\nb", 0o600, "one PIN"),
        (PIN, 0o644, "is open to everybody"),
    ],
)
def test_a_pin_file_that_cannot_be_used(
    folder: Path, said: Any, action: str, content: str | None, mode: int, words: str
) -> None:
    if content is not None:
        pin_file(folder, content).chmod(mode)
    text = said(2, action, "tpm:handle=0x81000002;tcti=swtpm:path=/no/such/socket;pin-source=file:pin")
    assert text.startswith(f"sidecar: {folder}/pin: ")
    assert words in text
    assert PIN not in text


@pytest.mark.threat(60)
def test_threat_60_neither_key_nor_pin_is_printed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pin_file(folder)
    main(["key", "create", "k"])
    main(["key", "show", "k"])
    main(["key", "create", "k"])
    main(["key", "create", "tpm:handle=0x81000002;tcti=swtpm:path=/no/such/socket;pin-source=file:pin"])
    text = "".join(capsys.readouterr())
    assert PIN not in text
    for line in (folder / "k").read_text().splitlines():
        assert line not in text


@pytest.mark.parametrize(
    ("spec", "protection", "software_device", "words"),
    [
        (KeyFile(Path("/k")), Protection.SOFTWARE, False, "whoever can read the file can copy it"),
        (TpmKey(handle=1), Protection.TPM, False, "the key cannot leave the TPM"),
        (TpmKey(handle=1), Protection.TPM, True, "a software TPM: "),
        (TpmKey(handle=1, copyable=True), Protection.SOFTWARE, False, "can be copied out of the TPM"),
        (TpmKey(handle=1, copyable=True), Protection.SOFTWARE, True, "can be copied out of the TPM"),
        (Pkcs11Key(Path("/m")), Protection.HSM, False, "the key cannot leave the token"),
        (Pkcs11Key(Path("/m")), Protection.HSM, True, "a software token: "),
        (Pkcs11Key(Path("/m"), copyable=True), Protection.SOFTWARE, False, "can be copied out of the token"),
        (RemoteKey(Path("/s")), Protection.REMOTE, False, "says for itself"),
    ],
    ids=str,
)
def test_what_protection_means(spec: Any, protection: Protection, software_device: bool, words: str) -> None:
    assert words in explained(spec, protection, software=software_device)


def test_the_pin_is_the_certificate_s(folder: Path, said: Any) -> None:
    said(0, "create", "k", "--csr", "r")
    request = x509.load_pem_x509_csr((folder / "r").read_bytes())
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    spki = request.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert f"pin         {Pin.of_spki(spki)}\n" in said(0, "show", "k")


@pytest.mark.parametrize("action", ["create", "show"])
def test_help(action: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["key", action, "--help"]) == 0
    shown = capsys.readouterr().out
    for word in ("PLACE", "--csr", "--spiffe-id", "example:", "exit codes:"):
        assert word in shown
    assert ("--curve" in shown) is (action == "create")
