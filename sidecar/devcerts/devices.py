"""Keys of identities in a TPM or a PKCS#11 token, and ``--key``, which says in which."""

from __future__ import annotations

import hashlib
from contextlib import closing
from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING, Final, TypeAlias

from cryptography.hazmat.primitives.asymmetric import ec

from sidecar.devcerts import files, pem
from sidecar.devcerts.errors import DevCertsCode, DevCertsError
from sidecar.devcerts.keys import Key
from sidecar.devcerts.layout import PKCS11_KEY, TPM_KEY
from sidecar.keys.create import create
from sidecar.keys.errors import KeyCode, PrivateKeyError, SignError
from sidecar.keys.open import Secrets, open_signer
from sidecar.keys.selftest import self_test
from sidecar.keys.spec import TpmKey, parse
from sidecar.keys.uri import Pkcs11Key

if TYPE_CHECKING:
    from pathlib import Path

    from sidecar.devcerts.layout import Place
    from sidecar.keys.spec import KeySpec

#: A key's place without the key: what all keys of one run have in common.
Device: TypeAlias = TpmKey | Pkcs11Key

_CURVE: Final = ec.SECP256R1
_ID_BYTES: Final = 16
#: Keys of one identity that a token may hold: each ``--new-keys`` leaves one behind.
_MOST: Final = 99
#: What names one key, which is chosen here.
_NAMING: Final = frozenset({"handle", "file", "object", "id"})
_FORMS: Final = "write tpm, tpm:tcti=…;pin-source=file:PATH, or pkcs11:token=NAME?module-path=PATH&pin-source=file:PATH"


def parse_device(text: str, base: Path) -> Device:
    """Reads ``--key``; relative paths start at ``base``. Raises DevCertsError, PrivateKeyError. Opens nothing."""
    kind, _, rest = text.partition(":")
    named, mark, query = rest.partition("?")
    parts = [part for part in named.split(";") if part]
    if kind.lower() not in {"tpm", "pkcs11"}:
        raise _wrong("is neither tpm nor pkcs11:…", "leave it out for keys in files")
    naming = {part.partition("=")[0] for part in parts} & _NAMING
    if naming:
        raise _wrong(f"names one key by {min(naming)}=, and each identity has its own", _FORMS)
    # The grammar wants a key to be named; it is named for each identity below.
    any_key = "file=-" if kind.lower() == "tpm" else "object=-"
    found = parse(f"{kind}:{';'.join([any_key, *parts])}{mark}{query}", base)
    if isinstance(found, TpmKey):
        return replace(found, file=None)
    assert isinstance(found, Pkcs11Key)  # noqa: S101 - the other kind that there is
    return replace(found, object=None)


def _wrong(message: str, hint: str) -> DevCertsError:
    return DevCertsError(DevCertsCode.KEY_PLACE_INVALID, f"--key {message}", hint=hint)


def opened(spec: KeySpec, secrets: Secrets) -> Key:
    """Opens a key, and signs with it once: the public half that lies beside it in a token is not believed unseen.

    Raises SignError, PrivateKeyError.
    """
    with closing(open_signer(spec, secrets)) as signer:
        self_test(signer)
        return Key(spec, signer.public_key, signer.protection)


class TpmKeys:
    """Keys that a TPM wrapped, each in a file of its identity's folder."""

    file = TPM_KEY

    def __init__(self, device: TpmKey, pin: bytes | None) -> None:
        self._device = device
        self._pin = pin

    def named(self, place: Place) -> str:
        """The path."""
        return str(place.folder / TPM_KEY)

    def find(self, place: Place) -> Key | None:
        """Loads it into the TPM."""
        data = self._read(place)
        if data is None:
            return None
        try:
            return opened(self._spec(place), Secrets(data, self._pin))
        except (SignError, PrivateKeyError) as error:
            raise _about(self.named(place), error) from error

    def keep(self, place: Place, key: Key) -> None:
        """The file stays as it is."""

    def retire(self, place: Place) -> tuple[str, ...]:
        """The file is replaced, and with it the key is gone: the TPM keeps no copy."""
        self._read(place, replaced=True)
        return ()

    def make(self, place: Place) -> Key:
        """Makes one in the TPM, and writes its file."""
        from sidecar.keys.tpm.create import create as make  # noqa: PLC0415 - loads tpm2-tss

        spec = self._spec(place)
        made = make(spec, _CURVE, self._pin).pem
        assert made is not None  # noqa: S101 - it has none for persistent keys alone
        files.write(files.NewFile(place.folder / TPM_KEY, made, files.PRIVATE))
        return opened(spec, Secrets(made, self._pin))

    def _spec(self, place: Place) -> TpmKey:
        return replace(self._device, file=(place.folder / TPM_KEY).absolute())

    def _read(self, place: Place, *, replaced: bool = False) -> bytes | None:
        from sidecar.keys.tpm import tss2  # noqa: PLC0415 - for TPMs alone

        path = place.folder / TPM_KEY
        found = files.read(path)
        if found is None:
            return None
        try:
            tss2.inspect(found.data)
        except PrivateKeyError as error:
            raise DevCertsError(DevCertsCode.KEY_INVALID, f"{path}: {error}", hint=pem.REMOVE) from error
        if not replaced:
            pem.demand_closed(path, found)
        return found.data


class TokenKeys:
    """Keys in a token, labelled ``<agent>-<instance>``; a file in the identity's folder says which is the right one.

    A key is ours when label and identifier are: the identifier is made from the SPIFFE ID. Nothing is ever destroyed, so
    that a second key of an identity is labelled ``<agent>-<instance>~2``.
    """

    file = PKCS11_KEY

    def __init__(self, device: Pkcs11Key, pin: bytes | None) -> None:
        self._device = device
        self._pin = pin

    def named(self, place: Place) -> str:
        """The label."""
        return f"{(self._recorded(place) or self._spec(place, 1)).object} in the token"

    def find(self, place: Place) -> Key | None:
        """Looks for it in the token."""
        from sidecar.keys.pkcs11.create import find  # noqa: PLC0415 - loads python-pkcs11

        spec = self._recorded(place) or self._spec(place, 1)
        try:
            return None if find(spec, self._pin) is None else opened(spec, Secrets(pin=self._pin))
        except (SignError, PrivateKeyError) as error:
            raise _about(self.named(place), error) from error

    def keep(self, place: Place, key: Key) -> None:
        """Writes down which it is, where that is not known or the way to it has changed."""
        file = files.NewFile(place.folder / PKCS11_KEY, f"{key.spec}\n".encode(), files.PUBLIC)
        found = files.read(file.path)
        if found is None or found.data != file.data:
            files.write(file)

    def retire(self, place: Place) -> tuple[str, ...]:
        """Names the key that stays in the token."""
        spec = self._recorded(place)
        return () if spec is None else (str(spec),)

    def make(self, place: Place) -> Key:
        """Makes one in the token, under the first label that is free."""
        for n in count(1):
            try:
                spec = self._spec(place, n)
                create(spec, _CURVE, self._pin)
                break
            except PrivateKeyError as error:
                if error.code is not KeyCode.EXISTS or n == _MOST:
                    raise
        key = opened(spec, Secrets(pin=self._pin))
        self.keep(place, key)
        return key

    def _spec(self, place: Place, n: int) -> Pkcs11Key:
        """The ``n``-th key of an identity."""
        _, agent, instance = place.id.segments
        label = f"{agent}-{instance}" if n == 1 else f"{agent}-{instance}~{n}"
        id_ = hashlib.sha256(f"sidecar certs init\0{place.id}\0{n}".encode()).digest()[:_ID_BYTES]
        return replace(self._device, object=label, id=id_)

    def _recorded(self, place: Place) -> Pkcs11Key | None:
        """The key that the folder names, reached as ``--key`` says."""
        path = place.folder / PKCS11_KEY
        found = files.read(path)
        if found is None:
            return None
        try:
            spec = parse(found.data.decode().removesuffix("\n"), path.parent)
        except (UnicodeDecodeError, PrivateKeyError) as error:
            raise DevCertsError(DevCertsCode.KEY_INVALID, f"{path} names no key in a token", hint=pem.REMOVE) from error
        if not isinstance(spec, Pkcs11Key) or spec.object is None or spec.id is None:
            raise DevCertsError(DevCertsCode.KEY_INVALID, f"{path} names no key in a token", hint=pem.REMOVE)
        return replace(self._device, object=spec.object, id=spec.id)


def _about(what: str, error: SignError | PrivateKeyError) -> SignError | PrivateKeyError:
    if isinstance(error, SignError):
        return SignError(error.code, f"{what}: {error}", hint=error.hint)
    return PrivateKeyError(error.code, f"{what}: {error}", hint=error.hint)
