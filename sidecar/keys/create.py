"""Makes a key in any kind of place; nothing that is there is overwritten."""

from __future__ import annotations

import contextlib
import os
import secrets
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from sidecar.keys.errors import KeyCode, PrivateKeyError, SignError
from sidecar.keys.open import Secrets
from sidecar.keys.protection import Protection
from sidecar.keys.spec import KeyFile, RemoteKey, TpmKey
from sidecar.keys.uri import Pkcs11Key

if TYPE_CHECKING:
    from pathlib import Path

    from sidecar.keys.spec import KeySpec

PRIVATE: Final = 0o600
PUBLIC: Final = 0o644

#: CKA_ID of a new key whose place names none: long enough that no two are alike.
_ID_BYTES: Final = 16
#: What reaches a program and no device (tpm2-tss's names of them): swtpm, and Microsoft's simulator.
_SOFTWARE_TCTI: Final = frozenset({"swtpm", "mssim"})
#: TPM2_PT_VENDOR_STRING_1 to 4 of libtpms, which is in swtpm and behind the virtual TPMs of QEMU.
_SOFTWARE_VENDOR: Final = b"SW   TPM"


@dataclass(frozen=True, slots=True)
class Made:
    """A key that was made. ``spec`` names it as it can be written in a configuration, ``secrets`` opens it."""

    spec: KeySpec
    public_key: ec.EllipticCurvePublicKey
    protection: Protection
    secrets: Secrets = field(repr=False)


def create(spec: KeySpec, curve: type[ec.EllipticCurve], pin: bytes | None) -> Made:
    """Makes a key. Raises PrivateKeyError, SignError, and OSError where a file cannot be written.

    May block for as long as a device does. A key that was just made cannot be copied out of its device, so that
    ``unsafe-copyable`` is not in the place that is returned.
    """
    if isinstance(spec, RemoteKey):
        raise PrivateKeyError(
            KeyCode.UNSUPPORTED,
            "a signer service makes no keys",
            hint="make the key where the service runs, in the place that `sidecar signer --key` names there",
        )
    if isinstance(spec, TpmKey):
        return _in_tpm(replace(spec, copyable=False), curve, pin)
    if isinstance(spec, Pkcs11Key):
        return _in_token(replace(spec, copyable=False), curve, pin)
    return _in_file(spec, curve)


def _in_file(spec: KeyFile, curve: type[ec.EllipticCurve]) -> Made:
    key = ec.generate_private_key(curve())
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    write_new(spec.path, pem, PRIVATE)
    return Made(spec, key.public_key(), Protection.SOFTWARE, Secrets(pem=pem))


def _in_tpm(spec: TpmKey, curve: type[ec.EllipticCurve], pin: bytes | None) -> Made:
    from sidecar.keys.tpm.create import create as make  # noqa: PLC0415 - loads tpm2-tss

    if spec.file is not None:
        demand_new(spec.file)
    made = make(spec, curve, pin)
    if spec.file is not None:
        assert made.pem is not None  # noqa: S101 - as `Created` says
        write_new(spec.file, made.pem, PRIVATE)
    return Made(spec, made.public_key, Protection.TPM, Secrets(made.pem, pin))


def _in_token(spec: Pkcs11Key, curve: type[ec.EllipticCurve], pin: bytes | None) -> Made:
    from sidecar.keys.pkcs11.create import create as make  # noqa: PLC0415 - loads python-pkcs11

    named = replace(spec, id=spec.id or secrets.token_bytes(_ID_BYTES))
    return Made(named, make(named, curve, pin), Protection.HSM, Secrets(pin=pin))


# -- files --------------------------------------------------------------------------------------------------------------


def demand_new(path: Path) -> None:
    """Refuses early what `write_new` would refuse, or could not write. Raises PrivateKeyError, OSError."""
    if os.path.lexists(path):  # a link that leads nowhere counts
        raise _exists(path)
    os.scandir(path.parent).close()


def write_new(path: Path, data: bytes, mode: int) -> None:
    """Writes a file that is not there, with its mode from the start. Raises PrivateKeyError, OSError."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    except FileExistsError:
        raise _exists(path) from None
    try:
        with os.fdopen(descriptor, "wb") as file:
            # The umask may have taken more away than it should; it can never have added.
            os.fchmod(descriptor, mode)
            file.write(data)
            file.flush()
            os.fsync(descriptor)
    except BaseException:
        with contextlib.suppress(OSError):
            path.unlink()
        raise


def _exists(path: Path) -> PrivateKeyError:
    return PrivateKeyError(
        KeyCode.EXISTS,
        f"there is a file {path} already, which stays as it is",
        hint="choose another name, or move the file away",
    )


# -- what a device is -----------------------------------------------------------------------------------------------------


def in_software(spec: KeySpec) -> bool:
    """Says whether the TPM or token of a key is known to be a program, whose keys are in files: a test's.

    May ask the TPM, and block for as long as it does; where it does not say, False.
    """
    if isinstance(spec, Pkcs11Key):
        return "softhsm" in spec.module.resolve().name.lower()
    if not isinstance(spec, TpmKey):
        return False
    if spec.tcti is not None and spec.tcti.partition(":")[0] in _SOFTWARE_TCTI:
        return True
    try:
        return _vendor(spec.tcti) == _SOFTWARE_VENDOR
    except (SignError, PrivateKeyError):
        return False


def _vendor(tcti: str | None) -> bytes:
    """What the TPM calls itself. Raises SignError, PrivateKeyError."""
    from sidecar.keys.tpm.codes import translated  # noqa: PLC0415 - for TPMs alone
    from sidecar.keys.tpm.context import Context  # noqa: PLC0415 - loads tpm2-tss

    with Context(tcti) as tpm:
        tss: Any = tpm.library
        with translated(tss, "asking the TPM who made it"):
            _, found = tpm.esys.get_capability(tss.TPM2_CAP.TPM_PROPERTIES, tss.TPM2_PT_VENDOR.STRING_1, 4)
        properties = found.data.tpmProperties
        return b"".join(int(properties[n].value).to_bytes(4) for n in range(min(4, properties.count))).rstrip(b"\0")
