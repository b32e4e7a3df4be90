"""From a key's place to a signer: one row a kind, whose library is loaded when it is asked for."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sidecar.keys import software
from sidecar.keys.errors import KeyCode, PrivateKeyError
from sidecar.keys.serial import SIGN_SECONDS, SerialSigner
from sidecar.keys.spec import KeyFile, RemoteKey, TpmKey
from sidecar.keys.uri import Pkcs11Key

if TYPE_CHECKING:
    from sidecar.keys.signer import Signer
    from sidecar.keys.spec import KeySpec


@dataclass(frozen=True, slots=True)
class Secrets:
    """What the files of a key's place hold, as the bytes that were read and checked once.

    ``pem``: the PEM file, or the wrapped key of ``tpm:file=``. ``pin``: the PIN. Neither appears in ``repr``.
    """

    pem: bytes | None = field(default=None, repr=False)
    pin: bytes | None = field(default=None, repr=False)


def open_signer(spec: KeySpec, secrets: Secrets, *, limit: float = SIGN_SECONDS) -> Signer:
    """Opens the device or service of a key; ``limit`` is the time that a signature may take, in seconds.

    May block for longer where a device hangs: call it in a thread that may be lost. Raises SignError where the device
    cannot be used now, PrivateKeyError where it never can as it is configured.
    """
    if isinstance(spec, RemoteKey):
        from sidecar.keys.remote import RemoteSigner  # noqa: PLC0415 - as below

        return RemoteSigner(spec, limit=limit)
    if isinstance(spec, TpmKey):
        from sidecar.keys.tpm.device import open_device  # noqa: PLC0415 - loads tpm2-tss

        return SerialSigner(open_device(spec, secrets.pem, secrets.pin), limit=limit)
    if isinstance(spec, Pkcs11Key):
        from sidecar.keys.pkcs11.device import open_device as open_token  # noqa: PLC0415 - loads python-pkcs11

        return SerialSigner(open_token(spec, secrets.pin), limit=limit)
    assert isinstance(spec, KeyFile)  # noqa: S101 - the last kind there is
    if secrets.pem is None:
        raise PrivateKeyError(KeyCode.NO_KEY, "the key's file was not read")
    return software.SoftwareSigner(software.load(secrets.pem))
