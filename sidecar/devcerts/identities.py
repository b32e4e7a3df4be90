"""The identities under the authority: each found and renewed, or made."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sidecar.devcerts import files, pem
from sidecar.devcerts.errors import DevCertsCode, DevCertsError
from sidecar.devcerts.layout import KEY_FILES
from sidecar.identity.facts import Facts, issued_by
from sidecar.identity.issue import issue
from sidecar.identity.pins import Pin

if TYPE_CHECKING:
    from sidecar.devcerts.keys import Keeper, Key
    from sidecar.devcerts.layout import Place
    from sidecar.identity.issue import Authority
    from sidecar.identity.spiffe import SpiffeId
    from sidecar.keys.protection import Protection

LIFETIME: Final = 7 * 24 * 3600.0
"""Seconds that a development certificate lives."""


@dataclass(frozen=True, slots=True)
class Identity:
    """One identity as it stands in the folder. ``not_after`` is in seconds since the epoch; ``news`` is about its key.

    ``unused`` names keys that were there and are of no use any more.
    """

    place: Place
    key: Key
    pin: Pin
    not_after: float
    news: str
    unused: tuple[str, ...] = ()

    @property
    def id(self) -> SpiffeId:
        """The SPIFFE ID."""
        return self.place.id

    @property
    def protection(self) -> Protection:
        """What keeps the key from being copied."""
        return self.key.protection


@dataclass(frozen=True, slots=True)
class Checked:
    """An identity that may be made or renewed; ``key`` is None where one is to be made."""

    place: Place
    key: Key | None
    unused: tuple[str, ...] = ()


def check(place: Place, authority: Authority, keeper: Keeper, *, new_key: bool) -> Checked:
    """Finds the key that is there, unless a new one is wanted; changes nothing.

    A key without a certificate is kept. Raises DevCertsError for files that are not ours, also with ``new_key``: that
    replaces what this command made and nothing else.
    """
    facts = pem.read_certificate(place.certificate)
    if facts is not None:
        _check_ours(place, facts, authority)
    elsewhere = _elsewhere(place, keeper)
    if new_key:
        return Checked(place, None, (*keeper.retire(place), *elsewhere))
    found = keeper.find(place)
    _check_key(place, facts, found, keeper, elsewhere)
    return Checked(place, found)


def complete(checked: Checked, authority: Authority, keeper: Keeper, now: float) -> Identity:
    """Makes the key if there is none, then a certificate from now on, and writes both in this order."""
    place, key = checked.place, checked.key
    news = "new key" if key is None else "key kept"
    if key is None:
        key = keeper.make(place)
    else:
        keeper.keep(place, key)
    certificate = issue(authority, key.public_key, place.id, now=now, lifetime=LIFETIME)
    files.write(pem.certificate_file(place.certificate, certificate))
    pin, not_after = Pin.of_certificate(certificate), certificate.not_valid_after_utc.timestamp()
    return Identity(place, key, pin, not_after, news, checked.unused)


def _elsewhere(place: Place, keeper: Keeper) -> tuple[str, ...]:
    """The files of keys of other kinds."""
    others = (place.folder / name for name in KEY_FILES if name != keeper.file)
    return tuple(str(path) for path in others if os.path.lexists(path))


def _check_ours(place: Place, facts: Facts, authority: Authority) -> None:
    """Accepts a certificate that this authority issued to this identity, expired or not."""
    path = place.certificate
    if facts.uris != (str(place.id),):
        other = facts.uris[0] if len(facts.uris) == 1 else "another identity"
        raise DevCertsError(
            DevCertsCode.IDENTITY_OTHER,
            f"{path} is the certificate of {other!a}, not of {place.id}",
            hint="use another folder for other identities",
        )
    if not issued_by(facts, Facts.of_certificate(authority.certificate)):
        raise DevCertsError(
            DevCertsCode.CERTIFICATE_FOREIGN,
            f"{path} was issued by another authority than the one in the folder",
            hint=f"remove {place.folder}, or use another folder",
        )


def _check_key(place: Place, facts: Facts | None, key: Key | None, keeper: Keeper, elsewhere: tuple[str, ...]) -> None:
    """Accepts the key that the certificate is for."""
    if key is not None and (facts is None or facts.public_key == key.public_key):
        return
    if elsewhere:
        how = KEY_FILES[Path(elsewhere[0]).name]
        raise DevCertsError(
            DevCertsCode.KEY_ELSEWHERE,
            f"{place.id} has a key of another kind: {elsewhere[0]}",
            hint=f"run again {how} to keep it, or give --new-keys: the pin changes with the key",
        )
    if facts is None:
        return
    if key is None:
        raise DevCertsError(
            DevCertsCode.KEY_LOST,
            f"{place.certificate} is there, but its key {keeper.named(place)} is not",
            hint="put the key back, or give --new-keys: the pin changes with the key",
        )
    raise DevCertsError(
        DevCertsCode.KEY_MISMATCH,
        f"{keeper.named(place)} is not the key of {place.certificate}",
        hint="put the right key back, or give --new-keys: the pin changes with the key",
    )
