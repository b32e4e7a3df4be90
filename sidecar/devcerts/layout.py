"""Who gets an identity, and where its files lie: names in, SPIFFE IDs and paths out. Nothing here touches a file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sidecar.devcerts.errors import DevCertsCode, DevCertsError
from sidecar.identity.spiffe import SpiffeId, SpiffeIdError, TrustDomain, check_segment

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from sidecar.devcerts.devices import Device

DEFAULT_TRUST_DOMAIN: Final = "example.org"
DEFAULT_INSTANCE: Final = "1"

AUTHORITY_CERTIFICATE: Final = "ca.crt"
AUTHORITY_KEY: Final = "ca.key"
CERTIFICATE: Final = "tls.crt"
KEY: Final = "tls.key"
TPM_KEY: Final = "tls.tpm.pem"
PKCS11_KEY: Final = "tls.pkcs11.uri"

KEY_FILES: Final = {KEY: "without --key", TPM_KEY: "with --key tpm", PKCS11_KEY: "with --key pkcs11:…"}
"""Each kind of key has a file of its own in the identity's folder: here, how it is asked for."""

_TAKEN: Final = {
    "agent": {AUTHORITY_CERTIFICATE, AUTHORITY_KEY, "readme.md"},
    "instance": {CERTIFICATE, *KEY_FILES},
}
"""Names of files that stand where the folder of an agent or of an instance would."""


@dataclass(frozen=True, slots=True)
class Place:
    """The files of one identity."""

    id: SpiffeId
    folder: Path

    @property
    def certificate(self) -> Path:
        """The certificate, PEM."""
        return self.folder / CERTIFICATE

    @property
    def key(self) -> Path:
        """The private key of an identity that has it in a file: PEM, mode 0600."""
        return self.folder / KEY


@dataclass(frozen=True, slots=True)
class Order:
    """What is asked for. Made by :meth:`parse` alone, which checks every name."""

    directory: Path
    trust_domain: TrustDomain
    places: tuple[Place, ...]
    new_keys: bool = False
    #: None for keys in files.
    device: Device | None = None

    @classmethod
    def parse(
        cls,
        directory: Path,
        agents: Iterable[str],
        *,
        trust_domain: str = DEFAULT_TRUST_DOMAIN,
        instance: str = DEFAULT_INSTANCE,
        new_keys: bool = False,
        device: Device | None = None,
    ) -> Order:
        """The order for ``spiffe://<trust domain>/agent/<name>/<instance>`` of each agent; raises DevCertsError."""
        domain = _trust_domain(trust_domain)
        _check_name("instance", instance)
        places = []
        for name in dict.fromkeys(agents):
            _check_name("agent", name)
            places.append(Place(_identity(domain, name, instance), _folder(directory, name, instance)))
        _check_apart(places)
        return cls(directory, domain, tuple(places), new_keys, device)


def _trust_domain(name: str) -> TrustDomain:
    try:
        return TrustDomain.parse(name)
    except SpiffeIdError as error:
        raise DevCertsError(
            DevCertsCode.TRUST_DOMAIN_INVALID, f"--trust-domain: {error}", hint="for example example.org"
        ) from error


def _check_name(kind: str, name: str) -> None:
    """A name is one segment of a SPIFFE ID and, below the folder, a directory that a listing shows."""
    try:
        check_segment(name)
    except SpiffeIdError as error:
        raise DevCertsError(
            DevCertsCode.NAME_INVALID, f"--{kind}: {error}", hint=f"for example --{kind} {_example(kind)}"
        ) from error
    if name.startswith(".") or name.lower() in _TAKEN[kind]:
        raise DevCertsError(
            DevCertsCode.NAME_RESERVED,
            f"--{kind}: {name} would stand where the folder has a file of its own",
            hint=f"for example --{kind} {_example(kind)}",
        )


def _example(kind: str) -> str:
    return "planner" if kind == "agent" else DEFAULT_INSTANCE


def _identity(domain: TrustDomain, name: str, instance: str) -> SpiffeId:
    try:
        return SpiffeId(domain, f"/agent/{name}/{instance}")
    except SpiffeIdError as error:  # every segment is fine, the whole is too long
        raise DevCertsError(DevCertsCode.NAME_INVALID, f"--agent: {error}", hint="choose a shorter name") from error


def _folder(directory: Path, name: str, instance: str) -> Path:
    """``<agent>/`` for instance 1, ``<agent>/<instance>/`` for the others: no two identities share a path."""
    folder = directory / name
    return folder if instance == DEFAULT_INSTANCE else folder / instance


def _check_apart(places: list[Place]) -> None:
    """Two names that differ in case alone are two identities but, on some file systems, one folder."""
    seen: dict[str, Place] = {}
    for place in places:
        other = seen.setdefault(str(place.folder).lower(), place)
        if other is not place:
            raise DevCertsError(
                DevCertsCode.NAMES_COLLIDE,
                f"--agent: {place.folder} and {other.folder} are one folder where case does not count",
                hint="choose names that differ in more than case",
            )
