"""Where the keys of identities are: one keeper a kind of place, here the one for files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from sidecar.devcerts import files, pem
from sidecar.devcerts.layout import KEY
from sidecar.keys.protection import Protection
from sidecar.keys.spec import KeyFile

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import ec

    from sidecar.devcerts.layout import Place
    from sidecar.keys.spec import KeySpec


@dataclass(frozen=True, slots=True)
class Key:
    """The key of an identity. ``spec`` is what ``identity.key`` says of it."""

    spec: KeySpec
    public_key: ec.EllipticCurvePublicKey
    protection: Protection


class Keeper(Protocol):
    """Finds and makes keys in one kind of place.

    Raises DevCertsError for what is not ours; PrivateKeyError and SignError for what a device says.
    """

    #: The name of the file in an identity's folder that says that its key is kept here.
    file: str

    def named(self, place: Place) -> str:
        """Says for a message where the key of an identity is, or would be."""

    def find(self, place: Place) -> Key | None:
        """Returns the key that is there, which can be used; None where there is none. Changes nothing."""

    def keep(self, place: Place, key: Key) -> None:
        """Goes on with what `find` found."""

    def retire(self, place: Place) -> tuple[str, ...]:
        """Makes sure that what a new key would take the place of is ours; names what then is of no use. Changes nothing."""

    def make(self, place: Place) -> Key:
        """Makes a new key, and the file in the identity's folder that belongs to it."""


class FileKeys:
    """Keys in files of the identities' folders."""

    file = KEY

    def named(self, place: Place) -> str:
        """The path."""
        return str(place.key)

    def find(self, place: Place) -> Key | None:
        """Reads it."""
        key = pem.read_key(place.key)
        return None if key is None else _key(place, key.public_key())

    def keep(self, place: Place, key: Key) -> None:
        """The file stays as it is."""

    def retire(self, place: Place) -> tuple[str, ...]:
        """The file is replaced."""
        pem.read_key(place.key, replaced=True)
        return ()

    def make(self, place: Place) -> Key:
        """Writes a new one."""
        key = pem.new_key()
        files.write(pem.key_file(place.key, key))
        return _key(place, key.public_key())


def _key(place: Place, public_key: ec.EllipticCurvePublicKey) -> Key:
    return Key(KeyFile(place.key), public_key, Protection.SOFTWARE)
