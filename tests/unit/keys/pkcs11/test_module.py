from __future__ import annotations

import gc
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pkcs11
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from pkcs11 import _pkcs11

from sidecar.keys.errors import KeyCode, PrivateKeyError, SignCode, SignError
from sidecar.keys.pkcs11.create import create
from sidecar.keys.pkcs11.device import open_device
from sidecar.keys.pkcs11.module import Module, module
from sidecar.keys.selftest import self_test
from sidecar.keys.serial import SerialSigner
from sidecar.keys.uri import Pkcs11Key
from tests.support.softhsm import PIN, library

if TYPE_CHECKING:
    from tests.support.softhsm import SoftHsm

needs_softhsm = pytest.mark.needs("softhsm", "python-pkcs11")


def refused(path: Path) -> PrivateKeyError:
    with pytest.raises(PrivateKeyError) as caught:
        open_device(Pkcs11Key(path, object="x"), PIN)
    assert caught.value.code is KeyCode.NO_LIBRARY
    return caught.value


def test_no_file(tmp_path: Path) -> None:
    path = tmp_path / "vendor.so"
    assert str(refused(path)) == f"there is no file {path}"


def test_a_file_that_is_no_library(tmp_path: Path) -> None:
    path = tmp_path / "vendor.so"
    for content in (b"", b"#!/bin/sh\n", b"\x7fELF" + bytes(100)):
        path.write_bytes(content)
        assert str(refused(path)).startswith(f"the PKCS#11 module {path} does not load")
    assert str(refused(tmp_path)).startswith(f"the PKCS#11 module {tmp_path} does not load")


def test_another_library() -> None:
    path = Path(_pkcs11.__file__)
    assert str(refused(path)) == f"the library {path.resolve()} is no PKCS#11 module: it has no C_GetFunctionList"


@needs_softhsm
def test_a_module_that_does_not_start(tmp_path: Path) -> None:
    # SoftHSM without a configuration; in a process of its own, where it was not started before.
    program = f"""
import pathlib
from sidecar.keys import errors, open, uri
key = uri.Pkcs11Key(pathlib.Path({str(library())!r}), object="x")
for _ in range(2):
    try:
        open.open_signer(key, open.Secrets(pin=b"1234"))
    except errors.SignError as error:
        print(error.code, error)
"""
    environment = {**os.environ, "SOFTHSM2_CONF": str(tmp_path / "absent"), "HOME": str(tmp_path)}
    ended = subprocess.run(
        [sys.executable, "-c", program], env=environment, check=True, capture_output=True, text=True, timeout=60
    )
    assert (
        ended.stdout.splitlines()
        == [f"{SignCode.UNAVAILABLE} the token with our private key does not answer (GeneralError)"] * 2
    )


@needs_softhsm
def test_two_names_of_one_file(hsm: SoftHsm, tmp_path: Path) -> None:
    link = tmp_path / "vendor.so"
    link.symlink_to(hsm.library)
    assert module(link) is hsm.module
    spec = hsm.spec("one")
    create(spec, ec.SECP256R1, PIN)
    device = open_device(Pkcs11Key(link, token=spec.token, object="one"), PIN)
    self_test(SerialSigner(device))
    device.close()


@needs_softhsm
def test_it_starts_again_only_without_sessions(hsm: SoftHsm, monkeypatch: pytest.MonkeyPatch) -> None:
    create(hsm.spec("one"), ec.SECP256R1, PIN)
    device = open_device(hsm.spec("one"), PIN)
    calls: list[int] = []
    real = Module._call

    def call(self: Module, index: int) -> int:
        calls.append(index)
        return real(self, index)

    monkeypatch.setattr(Module, "_call", call)
    hsm.module.restart()
    assert calls == []
    self_test(SerialSigner(device))
    device.close()
    hsm.module.restart()
    assert calls == [1, 0]


@needs_softhsm
def test_a_module_that_does_not_start_again(hsm: SoftHsm, monkeypatch: pytest.MonkeyPatch) -> None:
    create(hsm.spec("one"), ec.SECP256R1, PIN)
    monkeypatch.setenv("SOFTHSM2_CONF", "/nowhere")
    with pytest.raises(SignError) as caught:
        hsm.module.restart()
    assert caught.value.code is SignCode.UNAVAILABLE
    with pytest.raises(SignError):
        open_device(hsm.spec("one"), PIN)
    monkeypatch.setenv("SOFTHSM2_CONF", hsm.environment()["SOFTHSM2_CONF"])
    device = open_device(hsm.spec("one"), PIN)
    self_test(SerialSigner(device))
    device.close()


@needs_softhsm
def test_the_library_object_is_never_freed(hsm: SoftHsm) -> None:
    # At exit the interpreter drops all of these; freeing the object would end and unload the module, also while a
    # thread is inside of it.
    del pkcs11._loaded[str(hsm.library)]
    hsm.module._library = None
    gc.collect()
    assert hsm.module._call(1) == 0  # C_Finalize: not "is not initialised"
