"""`sidecar certs init` as a function: reads and checks everything, then writes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sidecar.devcerts import authority, files, identities
from sidecar.devcerts.devices import TokenKeys, TpmKeys
from sidecar.devcerts.keys import FileKeys
from sidecar.keys.spec import TpmKey

if TYPE_CHECKING:
    from pathlib import Path

    from sidecar.devcerts.identities import Identity
    from sidecar.devcerts.keys import Keeper
    from sidecar.devcerts.layout import Order

GITIGNORE = b"""\
# Made on each machine, and kept out of every repository.
*
!.gitignore
!README*
"""


@dataclass(frozen=True, slots=True)
class Made:
    """What is in the folder now. ``authority_not_after`` is in seconds since the epoch.

    ``foreign_gitignore`` says that a `.gitignore` with other rules was there and was left alone.
    """

    order: Order
    authority_news: str
    authority_not_after: float
    identities: tuple[Identity, ...]
    foreign_gitignore: bool


def generate(order: Order, now: float, pin: bytes | None = None) -> Made:
    """Fills the folder; raises DevCertsError for what is not ours, with nothing written, or FolderError.

    With keys in a device, whose PIN ``pin`` is, also PrivateKeyError and SignError. Each file is replaced whole, a key
    before the certificate for it: where a run was cut between the two, the next one finds a key without a certificate and
    goes on, or, after ``new_keys``, says that they do not fit.
    """
    files.make_folder(order.directory)
    with files.sole(order.directory):
        keeper = _keeper(order, pin)
        ca = authority.prepare(order, now)
        checked = [identities.check(place, ca.authority, keeper, new_key=order.new_keys) for place in order.places]
        foreign_gitignore = _ignore(order.directory)
        for file in ca.files:
            files.write(file)
        made = tuple(identities.complete(one, ca.authority, keeper, now) for one in checked)
    not_after = ca.authority.certificate.not_valid_after_utc.timestamp()
    return Made(order, ca.news, not_after, made, foreign_gitignore)


def _keeper(order: Order, pin: bytes | None) -> Keeper:
    if order.device is None:
        return FileKeys()
    return TpmKeys(order.device, pin) if isinstance(order.device, TpmKey) else TokenKeys(order.device, pin)


def _ignore(directory: Path) -> bool:
    """Tells git to leave the folder alone, before there is a key in it. Says whether other rules were there."""
    path = directory / ".gitignore"
    found = files.read(path)
    if found is None:
        files.write(files.NewFile(path, GITIGNORE, files.PUBLIC))
    return found is not None and found.data != GITIGNORE
