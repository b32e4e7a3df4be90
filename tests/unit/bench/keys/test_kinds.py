"""Each kind of key: made where it says, named as the sidecar takes it, and missing where a part of it is."""

from __future__ import annotations

import time
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cryptography import x509

from bench.errors import CouldNotRunError
from bench.keys import hsm, kind, tpm
from bench.keys.hsm import HsmKey
from bench.keys.kind import FileKey, certify
from bench.keys.service import ServiceKey
from bench.keys.table import KINDS
from bench.keys.tpm import TpmKey
from sidecar.config.load import load
from sidecar.keys.errors import KeyCode, PrivateKeyError
from sidecar.keys.open import Secrets, open_signer
from sidecar.keys.selftest import self_test
from sidecar.keys.spec import KeyFile, parse

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.keys.kind import Given
    from bench.site import Site
    from sidecar.keys.signer import Signer


@contextmanager
def signer_of(given: Given, monkeypatch: pytest.MonkeyPatch) -> Iterator[Signer]:
    """Opens a key as a sidecar does that has it in its configuration."""
    for name, value in given.own.environment:
        monkeypatch.setenv(name, value)
    spec = parse(given.own.place, Path("/"))
    file = spec.path if isinstance(spec, KeyFile) else getattr(spec, "file", None)
    source = getattr(spec, "pin_source", None)
    secrets = Secrets(file.read_bytes() if file else None, source.read_bytes() if source else None)
    with closing(open_signer(spec, secrets)) as signer:
        yield signer


def check(given: Given, protection: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The key signs, it is the one of the certificate, and it is protected by what it is measured for."""
    with signer_of(given, monkeypatch) as signer:
        self_test(signer)
        assert signer.protection == protection
        certificate = x509.load_pem_x509_certificate(given.own.certificate.read_bytes())
        assert certificate.public_key() == signer.public_key


def test_a_key_in_a_file(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    given = FileKey().begin(site)
    assert given.beside == ()
    check(given, "software", monkeypatch)


@pytest.mark.needs("swtpm", "tpm2-pytss", "setpriv")
def test_a_key_in_a_tpm(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    given = TpmKey().begin(site)
    assert [process.name for process in given.beside] == ["swtpm"]
    check(given, "tpm", monkeypatch)
    check(TpmKey().begin(site), "tpm", monkeypatch)  # in another TPM: a new key in place of the old one


@pytest.mark.needs("swtpm", "tpm2-pytss", "setpriv")
def test_a_slow_tpm_is_slow(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    given = TpmKey(delay=0.1).begin(site)
    assert [process.name for process in given.beside] == ["swtpm", "slow-tpm"]
    with signer_of(given, monkeypatch) as signer:
        start = time.monotonic()
        self_test(signer)
        assert time.monotonic() - start >= 0.1


@pytest.mark.needs("softhsm", "python-pkcs11", "setpriv")
def test_a_key_in_a_token(site: Site) -> None:
    """Not opened here: a process starts a module once, and the one of another test may have been started."""
    given = HsmKey().begin(site)
    assert given.own.place.startswith("pkcs11:token=bench;object=tools-hsm;")
    assert given.own.environment[0][0] == "SOFTHSM2_CONF"
    assert given.own.certificate.is_file()


@pytest.mark.needs("setpriv")
def test_a_key_behind_a_service(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    given = ServiceKey().begin(site)
    assert [process.name for process in given.beside] == ["signer"]
    check(given, "remote", monkeypatch)


def test_a_device_that_is_not_there_could_not_run(site: Site) -> None:
    with pytest.raises(CouldNotRunError, match="sidecar"):
        certify(site, "none", "pkcs11:token=none?module-path=/nonexistent.so")


# -- what is missing ----------------------------------------------------------------------------------------------------


def test_what_every_machine_has_is_never_missing() -> None:
    assert FileKey().missing() is None


@pytest.mark.parametrize("made", KINDS[1:], ids=lambda made: made.name)
def test_an_interpreter_that_takes_no_such_key_is_told(
    made: kind.Kind, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def install() -> None:
        raise PrivateKeyError(KeyCode.OPENSSL, "this Python has OpenSSL built in", hint="use another one")

    for module in (tpm, hsm):
        monkeypatch.setattr(module, "lacking", lambda *_, **__: None)
        monkeypatch.setattr(module.importlib.util, "find_spec", lambda _: object())
    monkeypatch.setattr(hsm, "library", lambda: tmp_path)
    monkeypatch.setattr(kind.openssl, "install", install)
    assert made.missing() == "this Python has OpenSSL built in: use another one"


@pytest.mark.parametrize(
    ("made", "told"),
    [
        (TpmKey(), "swtpm is not installed: apt-get install swtpm"),
        (HsmKey(), "softhsm2-util is not installed: apt-get install softhsm2"),
    ],
)
def test_a_program_that_is_missing_is_told(
    made: kind.Kind, told: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("bench.programs._SYSTEM", ())
    monkeypatch.setenv("PATH", str(tmp_path))
    assert made.missing() == told


@pytest.mark.parametrize(("made", "told"), [(TpmKey(), "tpm2-pytss is not"), (HsmKey(), "python-pkcs11 is not")])
def test_a_library_that_is_missing_is_told(
    made: kind.Kind, told: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for module in (tpm, hsm):
        monkeypatch.setattr(module, "lacking", lambda *_, **__: None)
        monkeypatch.setattr(module.importlib.util, "find_spec", lambda _: None)
    monkeypatch.setattr(hsm, "library", lambda: tmp_path)
    assert (made.missing() or "").startswith(told)
    monkeypatch.setattr(hsm, "library", lambda: None)
    assert (HsmKey().missing() or "").startswith("libsofthsm2.so is not installed")


def test_our_configuration_takes_every_place(site: Site, tmp_path: Path) -> None:
    """`sidecar check` would say the same: nothing is opened."""
    from bench.peers.sidecar import Sidecar

    recorded: list[Path] = []
    site_of = type(site)

    class Recorder(site_of):  # type: ignore[misc, valid-type] # notes what would be started
        def proxy(self, name: str, port: int, *command: str | Path) -> object:
            recorded.append(Path(command[-1]))
            return None

    from bench.peers.peer import Work

    own = kind.OwnKey(f"signer:unix:{tmp_path}/s", site.certificates.certificate("tools"))
    Sidecar(own=own).inbound(Recorder(site.crew, site.certificates), Work.HTTP, 1)
    loaded = load(recorded[0], now=time.clock_gettime(time.CLOCK_REALTIME))
    assert str(loaded.material.key.spec) == f"signer:unix:{tmp_path}/s"
