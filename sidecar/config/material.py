"""The identity material of one look: certificate, key and bundles, read once, checked, and kept as bytes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeVar

from sidecar.config.faults import ConfigCode, below, printable
from sidecar.config.key_material import KeyReader, Named, read_file, reporter
from sidecar.identity.bundle import TrustBundle
from sidecar.identity.refusal import Refusal, VerificationError
from sidecar.identity.svid import Svid
from sidecar.identity.verify import verify
from sidecar.keys.spec import named_files

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from enum import StrEnum

    from sidecar.config.faults import Faults
    from sidecar.config.files import Look
    from sidecar.config.key_material import KeyMaterial
    from sidecar.config.values import Sources
    from sidecar.identity.peer import Role
    from sidecar.identity.spiffe import TrustDomain
    from sidecar.keys.protection import Protection

T = TypeVar("T")

_CERTIFICATE, _KEY, _TRUST = "identity.certificate", "identity.key", "identity.trust"


@dataclass(frozen=True, slots=True)
class Material:
    """Our own identity and whom we can prove, as the bytes that were checked: what TLS gets, never the paths.

    ``chain_pem`` is the chain, leaf first. Whether a key that no file shows is the certificate's is known once it was
    opened.
    """

    svid: Svid
    key: KeyMaterial
    chain_pem: bytes
    bundles: Mapping[TrustDomain, TrustBundle]

    @property
    def protection(self) -> Protection:
        """What keeps our key from being copied, as far as it is known without opening a device."""
        return self.key.protection


class MaterialReader:
    """Reads the files that ``identity`` names; every fault goes to the list, at the key that names the file."""

    def __init__(self, look: Look, faults: Faults, lines: Mapping[str, int], now: float) -> None:
        self._look = look
        self._faults = faults
        self._lines = lines
        self._now = now
        self._check = reporter(faults, lines)

    def read(self, sources: Sources, roles: Iterable[Role]) -> Material | None:
        """Returns the material, None when it cannot be had; it may be used only if no fault was added.

        ``roles`` are those in which we present our certificate: a server to callers, a client to peers.
        """
        bundles: dict[TrustDomain, TrustBundle] = {}
        for domain, path in sources.trust.items():
            named = Named(below(_TRUST, str(domain)), path)
            bundle = self._read(named, partial(self._bundle, domain))
            if bundle is not None:
                bundles[domain] = bundle
        key = KeyReader(self._look, self._check).read(sources.key) if sources.key else None
        certificate = Named(_CERTIFICATE, sources.certificate) if sources.certificate else None
        svid = self._read(certificate, self._svid) if certificate else None
        if svid is None or certificate is None:
            return None
        self._check_domain(svid, sources)
        self._check_standing(svid, certificate, sources, bundles, roles)
        if key is None:
            return None
        if key.public_key is not None:
            self._check(Named(_KEY, named_files(key.spec)[0]), partial(svid.check_key, key.public_key))
        return Material(svid, key, svid.chain_pem, MappingProxyType(bundles))

    def _read(self, named: Named, parse: Callable[[bytes], T]) -> T | None:
        """Reads and parses one file. A file with a private key in it is held to be closed, wherever it is named."""
        return read_file(self._look, self._check, named, parse)

    def _line(self, key: str) -> int:
        return self._lines.get(key, 0)

    def _svid(self, pem: bytes) -> Svid:
        return Svid.from_pem(pem, self._now)

    def _bundle(self, domain: TrustDomain, data: bytes) -> TrustBundle:
        return TrustBundle.parse(domain, data, self._now)

    def _check_domain(self, svid: Svid, sources: Sources) -> None:
        domain = svid.id.trust_domain
        if sources.trust_sound and domain not in sources.trust:
            self._faults.add(
                ConfigCode.OWN_TRUST_DOMAIN,
                f"names no bundle for our own trust domain, {domain}",
                line=self._line(_TRUST),
                key=_TRUST,
                hint=f"our certificate is that of {svid.id}; add {domain}: PATH",
            )

    def _check_standing(
        self,
        svid: Svid,
        certificate: Named,
        sources: Sources,
        bundles: Mapping[TrustDomain, TrustBundle],
        roles: Iterable[Role],
    ) -> None:
        """Verifies our own chain as the other side will: what every peer would refuse is no identity."""
        domain = svid.id.trust_domain
        refused: set[StrEnum] = set()
        for role in roles:
            self._check(certificate, partial(svid.check_role, role))
            if domain not in bundles:
                continue
            try:
                verify(svid.chain_der, bundles, role=role, now=self._now)
            except VerificationError as error:
                # check_role has said the first in our own words; the same for the other role is no news.
                if error.code is not Refusal.WRONG_PURPOSE and error.code not in refused:
                    refused.add(error.code)
                    self._faults.add(
                        ConfigCode.OWN_CHAIN,
                        f"{printable(str(certificate.path))}: every peer would refuse our chain: {error}",
                        line=self._line(_CERTIFICATE),
                        key=_CERTIFICATE,
                        hint=f"is {printable(str(sources.trust[domain]))} the bundle of the authority that issued it?",
                    )
