"""Keys that take their time: what a device does to a handshake, under the test's control."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from sidecar.keys import software
from sidecar.keys.errors import SignCode, SignError
from sidecar.keys.openssl import ExternalKey
from sidecar.keys.protection import Protection
from sidecar.keys.software import SoftwareKey, SoftwareSigner
from sidecar.tls.contexts import Credentials

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import ec

    from sidecar.keys.signer import Hash
    from tests.support.ca import Identity


@dataclass(frozen=True, slots=True)
class ApartKey(SoftwareKey):
    """A software key whose handshakes are made in threads all the same."""

    blocking: ClassVar[bool] = True


def apart(identity: Identity) -> Credentials:
    """Credentials whose handshakes are made in threads."""
    loaded = software.load(identity.key_pem)
    return Credentials(identity.chain_pem, ApartKey(loaded.public_key, loaded.pem))


class HeldSigner:
    """Signs when it is let: ``go`` lets everybody, ``waiting`` counts who is inside. ``fail`` makes it refuse."""

    def __init__(self, identity: Identity) -> None:
        self._signer = SoftwareSigner(software.load(identity.key_pem))
        self.public_key: ec.EllipticCurvePublicKey = self._signer.public_key
        self.protection = Protection.HSM
        self.go = threading.Event()
        self.waiting = 0
        self.signatures = 0
        self.fail: SignCode | None = None
        self._count = threading.Lock()

    def sign(self, message: bytes, hash_: Hash) -> bytes:
        with self._count:
            self.waiting += 1
        self.go.wait(60)
        with self._count:
            self.waiting -= 1
            self.signatures += 1
        if self.fail is not None:
            raise SignError(self.fail, "as the test says")
        return self._signer.sign(message, hash_)

    def close(self) -> None:
        self._signer.close()


def held(identity: Identity) -> tuple[Credentials, HeldSigner]:
    """Credentials whose key signs when the test lets it."""
    signer = HeldSigner(identity)
    return Credentials(identity.chain_pem, ExternalKey(signer)), signer
