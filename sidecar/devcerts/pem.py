"""What stands in the files: keys and certificates, read with the verdict "ours" or a clear refusal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from sidecar.devcerts import files
from sidecar.devcerts.errors import DevCertsCode, DevCertsError
from sidecar.identity import pem as pem_format
from sidecar.identity.facts import Facts
from sidecar.identity.refusal import VerificationError
from sidecar.keys import software
from sidecar.keys.errors import PrivateKeyError

if TYPE_CHECKING:
    from pathlib import Path

    from cryptography import x509

REMOVE: Final = "it is not one that `sidecar certs init` made: remove it, or use another folder"


def new_key() -> ec.EllipticCurvePrivateKey:
    """A fresh P-256 key."""
    return ec.generate_private_key(ec.SECP256R1())


def key_file(path: Path, key: ec.EllipticCurvePrivateKey) -> files.NewFile:
    """The file of a private key: PKCS#8, mode 0600."""
    data = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return files.NewFile(path, data, files.PRIVATE)


def certificate_file(path: Path, certificate: x509.Certificate) -> files.NewFile:
    """The file of a certificate."""
    return files.NewFile(path, certificate.public_bytes(Encoding.PEM), files.PUBLIC)


def read_key(path: Path, *, replaced: bool = False) -> ec.EllipticCurvePrivateKey | None:
    """The key in a file, None if there is no file. Raises DevCertsError for anything else than one usable key.

    ``replaced`` says that a new key takes its place: then it does not matter who could read the old one.
    """
    found = files.read(path)
    if found is None:
        return None
    try:
        pem = software.load(found.data).pem
    except PrivateKeyError as error:
        raise DevCertsError(DevCertsCode.KEY_INVALID, f"{path} {error}", hint=REMOVE) from error
    if not replaced:
        demand_closed(path, found)
    key = load_pem_private_key(pem, password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):  # pragma: no cover - `load` accepts these alone
        raise TypeError
    return key


def demand_closed(path: Path, found: files.Found) -> None:
    """Accepts the file of a key that is ours alone; raises DevCertsError."""
    if found.exposed:
        raise DevCertsError(
            DevCertsCode.KEY_EXPOSED,
            f"{path} is open to others on this machine",
            hint=f"chmod 600 {path}; if others could have read it, make new keys",
        )


def read_certificate(path: Path) -> Facts | None:
    """The one certificate in a file, None if there is no file; raises DevCertsError for anything else."""
    found = files.read(path)
    if found is None:
        return None
    try:
        blocks = pem_format.blocks(found.data)
        if len(blocks) != 1 or not blocks[0].is_certificate:
            raise DevCertsError(
                DevCertsCode.CERTIFICATE_INVALID, f"{path} is not the PEM of one certificate", hint=REMOVE
            )
        return Facts.of_der(blocks[0].der())
    except (pem_format.PemError, VerificationError) as error:
        raise DevCertsError(DevCertsCode.CERTIFICATE_INVALID, f"{path}: {error}", hint=REMOVE) from error
