"""Our own key, as far as files show it: a PEM file whole, a wrapped key, a PIN. No device is opened here."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from sidecar.config.faults import ConfigCode, Refused, printable
from sidecar.errors import SidecarError
from sidecar.keys import software
from sidecar.keys.open import Secrets
from sidecar.keys.pin import read_pin
from sidecar.keys.protection import Protection
from sidecar.keys.spec import KeyFile, TpmKey
from sidecar.keys.uri import Pkcs11Key

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from cryptography.hazmat.primitives.asymmetric import ec

    from sidecar.config.faults import Faults
    from sidecar.config.files import FileRead, Look
    from sidecar.keys.software import SoftwareKey
    from sidecar.keys.spec import KeySpec

T = TypeVar("T")

_KEY = "identity.key"
_PRIVATE_KEY = "a private key"


@dataclass(frozen=True, slots=True)
class Named:
    """A file, at the key of the configuration that names it."""

    key: str
    path: Path


#: Runs a check of a file; its complaint becomes a fault.
Check = Callable[[Named, Callable[[], object]], None]


@dataclass(frozen=True, slots=True)
class KeyMaterial:
    """Where our key is, and what its files hold. ``software`` is the key itself where it is in a PEM file.

    ``public_key`` is None where no file shows it. Two are equal when the same key is reached in the same way.
    """

    spec: KeySpec
    secrets: Secrets
    software: SoftwareKey | None = None
    public_key: ec.EllipticCurvePublicKey | None = None

    @property
    def protection(self) -> Protection:
        """What keeps the key from being copied, as far as it is known without opening a device."""
        if self.software is not None:
            return self.software.protection
        if isinstance(self.spec, (TpmKey, Pkcs11Key)):
            if self.spec.copyable:
                return Protection.SOFTWARE
            return Protection.TPM if isinstance(self.spec, TpmKey) else Protection.HSM
        return Protection.REMOTE


class KeyReader:
    """Reads the files that a key's place names; every fault goes to ``check``, under the file."""

    def __init__(self, look: Look, check: Check) -> None:
        self._look = look
        self._check = check

    def read(self, spec: KeySpec) -> KeyMaterial | None:
        """Returns what is known of the key; None when a file that it needs cannot be used."""
        if isinstance(spec, KeyFile):
            key = self._file(spec.path, software.load)
            return None if key is None else KeyMaterial(spec, Secrets(pem=key.pem), key, key.public_key)
        pin: bytes | None = None
        source = spec.pin_source if isinstance(spec, (TpmKey, Pkcs11Key)) else None
        if source is not None:
            pin = self._file(source, read_pin)
            if pin is None:
                return None
        if isinstance(spec, TpmKey) and spec.file is not None:
            return self._wrapped(spec, spec.file, pin)
        if isinstance(spec, Pkcs11Key):
            self._check(Named(_KEY, spec.module), partial(_check_module, spec.module))
        return KeyMaterial(spec, Secrets(pin=pin))

    def _wrapped(self, spec: TpmKey, path: Path, pin: bytes | None) -> KeyMaterial | None:
        from sidecar.keys.tpm import tss2  # noqa: PLC0415 - nobody else needs to know how a TPM writes its keys

        def parse(pem: bytes) -> KeyMaterial:
            wrapped = tss2.inspect(pem)
            tss2.demand_usable(wrapped, copyable=spec.copyable, has_pin=pin is not None)
            return KeyMaterial(spec, Secrets(pem, pin), None, wrapped.public_key)

        return self._file(path, parse)

    def _file(self, path: Path, parse: Callable[[bytes], T]) -> T | None:
        return read_file(self._look, self._check, Named(_KEY, path), parse, holds=_PRIVATE_KEY)


def reporter(faults: Faults, lines: Mapping[str, int]) -> Check:
    """Returns what runs a check and adds its complaint to the faults; the message begins with the file."""

    def check(named: Named, run: Callable[[], object]) -> None:
        try:
            run()
        except SidecarError as error:
            message = f"{printable(str(named.path))}: {error}"
            faults.add(error.code, message, line=lines.get(named.key, 0), key=named.key, hint=error.hint)

    return check


def read_file(look: Look, check: Check, named: Named, parse: Callable[[bytes], T], *, holds: str = "") -> T | None:
    """Reads and parses one file; None where that is not possible, which ``check`` was told.

    A file that ``holds`` a secret, in the words of messages, and any with a private key in it, is held to be closed.
    """
    files: list[FileRead] = []
    check(named, lambda: files.append(look.read(named.path)))
    if not files:
        return None
    file = files[0]
    if holds or software.holds_key(file.data):
        check(named, partial(check_key_file, file.status, holds or _PRIVATE_KEY))
    found: list[T] = []
    check(named, lambda: found.append(parse(file.data)))
    return found[0] if found else None


def _check_module(path: Path) -> None:
    """Accepts the path of a library; it is loaded when the key is opened, and not to be checked."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise Refused(
            ConfigCode.FILE_MISSING,
            f"the PKCS#11 library cannot be found: {error.strerror or type(error).__name__}",
            hint="install the vendor's library, or correct module-path",
        ) from error
    if not stat.S_ISREG(mode):
        raise Refused(
            ConfigCode.FILE_NOT_REGULAR, "the PKCS#11 library is not a file", hint="module-path names a library, .so"
        )


def check_key_file(status: os.stat_result, holds: str = _PRIVATE_KEY) -> None:
    """Accepts owner and mode of a file that holds a secret, as its open descriptor has them; raises Refused.

    A group may read it when it is one of ours and the owner is root: so Kubernetes mounts secrets under ``fsGroup``.
    """
    mode = stat.S_IMODE(status.st_mode)
    us = os.geteuid()
    if status.st_uid not in {us, 0}:
        raise Refused(
            ConfigCode.KEY_OWNER,
            f"holds {holds} and belongs to uid {status.st_uid}, who can read and replace it",
            hint=f"let it belong to uid {us} (ours) or root",
        )
    others = mode & 0o007
    ours = status.st_uid == 0 and status.st_gid in {os.getegid(), *os.getgroups()}
    group = mode & (0o030 if ours else 0o070)
    if others or group:
        who = "everybody" if others else f"group {status.st_gid}"
        raise Refused(
            ConfigCode.KEY_PERMISSIONS,
            f"holds {holds} and is open to {who} (mode {mode:04o})",
            hint="chmod 0600 it; for a Kubernetes secret set defaultMode: 0440 and the pod's fsGroup",
        )
