"""SoftHSM, a PKCS#11 token in software: one of its own for each test.

SoftHSM reads its configuration and looks for tokens once, when a module is started, and a process starts a module once.
So each fixture has its own copy of the library file, which the loader takes for another library, with its own state.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import subprocess
import sysconfig
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Self

from pkcs11.constants import Attribute, ObjectClass

from sidecar.keys.pkcs11.create import create
from sidecar.keys.pkcs11.device import open_device
from sidecar.keys.pkcs11.module import module
from sidecar.keys.pkcs11.session import open_session
from sidecar.keys.protection import Protection
from sidecar.keys.serial import SerialSigner
from sidecar.keys.uri import Pkcs11Key, parse
from tests.support.signers import Subject

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cryptography.hazmat.primitives.asymmetric import ec
    from pkcs11.types import Session

    from sidecar.keys.pkcs11.module import Module

PIN = b"a PIN of 19 letters"
OFFICER_PIN = "officer of security"
_NAME = "libsofthsm2.so"


def library() -> Path:
    """Where distributions put the module. Raises FileNotFoundError."""
    multiarch = sysconfig.get_config_var("MULTIARCH") or ""
    folders = ("/usr/lib/softhsm", f"/usr/lib/{multiarch}/softhsm", "/usr/lib64/softhsm", "/usr/lib64/pkcs11")
    brew = ("/opt/homebrew/lib/softhsm", "/usr/local/lib/softhsm")
    for folder in (*folders, *brew):
        if (found := Path(folder, _NAME)).exists():
            return found
    raise FileNotFoundError(f"{_NAME} is in none of {folders}")


class SoftHsm:
    """A SoftHSM with the token ``sidecar`` in it, as long as the context lasts; ``pin_file`` holds the user's PIN."""

    token = "sidecar"

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="softhsm-"))
        self.library = Path(shutil.copy(library().resolve(), self.folder / _NAME))
        self.pin_file = self.folder / "pin"
        self.pin_file.touch(mode=0o600)
        self.pin_file.write_bytes(PIN + b"\n")
        (self.folder / "tokens").mkdir(mode=0o700)
        self._configuration = self.folder / "softhsm2.conf"
        self._configuration.write_text(
            f"directories.tokendir = {self.folder}/tokens\nobjectstore.backend = file\nlog.level = ERROR\n"
        )
        self._before = os.environ.get("SOFTHSM2_CONF")

    def __enter__(self) -> Self:
        self.make_token(self.token)
        # A module that is started again in this process reads its configuration again.
        os.environ.update(self.environment())
        with self.module.alone():
            self.module.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is None:
            del os.environ["SOFTHSM2_CONF"]
        else:
            os.environ["SOFTHSM2_CONF"] = self._before
        shutil.rmtree(self.folder)

    @property
    def module(self) -> Module:
        """The loaded library."""
        return module(self.library)

    def environment(self) -> dict[str, str]:
        """What a program that is to use this SoftHSM needs in its environment."""
        return {"SOFTHSM2_CONF": str(self._configuration)}

    def uri(self, label: str, *, query: str = "", token: str | None = None) -> str:
        """The place of a key for a configuration file."""
        source = f"module-path={self.library}&pin-source=file:{self.pin_file}"
        return f"pkcs11:token={token or self.token};object={label}?{source}{query}"

    def spec(self, label: str, *, query: str = "", token: str | None = None) -> Pkcs11Key:
        """The same, parsed."""
        return parse(self.uri(label, query=query, token=token), self.folder)

    def make_token(self, label: str) -> None:
        """Makes one more token: seen by a module that is started after that."""
        self.util("--init-token", "--free", "--label", label, "--pin", PIN.decode(), "--so-pin", OFFICER_PIN)

    def delete_token(self, label: str) -> None:
        """Deletes a token under the hands of whoever uses it."""
        self.util("--delete-token", "--token", label)

    def util(self, *arguments: str) -> None:
        """Runs softhsm2-util."""
        subprocess.run(
            ["softhsm2-util", *arguments], env={**os.environ, **self.environment()}, check=True, capture_output=True
        )

    def reset(self) -> None:
        """Ends and starts the module behind everybody's back: all sessions and logins are gone, as after a reset."""
        with self.module.alone():
            self.module._library.reinitialize()  # type: ignore[union-attr]  # started in __enter__

    def log_out(self, session: Session) -> None:
        """Logs the whole process out (C_Logout, the twentieth function)."""
        function = ctypes.CFUNCTYPE(ctypes.c_ulong, ctypes.c_ulong)(self.module._function(19))
        assert function(session.handle) == 0  # type: ignore[attr-defined]  # the stub lacks it

    @contextlib.contextmanager
    def session(self, *, pin: bytes = PIN) -> Iterator[Session]:
        """A session that may write: for making objects that the product would not make."""
        with self.module.alone():
            opened = open_session(self.module, self.spec("any"), pin, writable=True)
            try:
                yield opened.session
            finally:
                opened.close()

    def logged_in(self) -> bool:
        """Says whether this process is logged in: then a private key is seen without a PIN. There has to be one."""
        with self.module.alone():
            probe = open_session(self.module, self.spec("any"), None)
            try:
                return bool(list(probe.session.get_objects({Attribute.CLASS: ObjectClass.PRIVATE_KEY})))
            finally:
                probe.close()


@contextlib.contextmanager
def token_subject(curve: type[ec.EllipticCurve]) -> Iterator[Subject]:
    """A row of the conformance suite: a fresh key in a fresh token."""
    with SoftHsm() as hsm:
        spec = hsm.spec("conformance")
        create(spec, curve, PIN)
        signer = SerialSigner(open_device(spec, PIN))
        yield Subject(signer, Protection.HSM, lambda: SerialSigner(open_device(spec, PIN)))
        signer.close()
        assert hsm.module.sessions == 0, "a session stayed open"
