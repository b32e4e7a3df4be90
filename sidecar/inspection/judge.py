"""What of a peer we would refuse, and why: by `identity.verify` and the expectation of an outbound entry, as the proxy does.

The proxy stops at the first fault; here each is looked for, so that a peer is mended in one go.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sidecar.identity.facts import Facts
from sidecar.identity.peer import Role
from sidecar.identity.pins import Pin
from sidecar.identity.profile import leaf_id
from sidecar.identity.refusal import VerificationError
from sidecar.identity.verify import verify
from sidecar.policy.addresses import AddressError, check_address
from sidecar.tls.failure import TlsCode

if TYPE_CHECKING:
    from sidecar.errors import SidecarError
    from sidecar.identity.bundle import Bundles
    from sidecar.identity.pattern import IdPattern
    from sidecar.inspection.look import Seen

#: What we speak between sidecars, and nothing else.
VERSION: Final = "TLSv1.3"
#: What we speak with ordinary HTTPS services.
SITE_VERSIONS: Final = ("TLSv1.2", "TLSv1.3")


@dataclass(frozen=True, slots=True)
class Wanted:
    """Whom an outbound entry asks for: the bundles, and its ``peer`` and ``pins`` where there is one.

    ``site``: an ordinary HTTPS service, whose chain and name OpenSSL verifies in our own handshake. It has to be at a public
    address, unless ``anywhere``. ``unseen``: that is all, since the agent does TLS itself.
    """

    bundles: Bundles
    peer: IdPattern | None = None
    pins: frozenset[Pin] = frozenset()
    site: bool = False
    anywhere: bool = False
    unseen: bool = False


@dataclass(frozen=True, slots=True)
class Fault:
    """One reason to refuse: a code as the proxy logs it, a sentence, and what to do."""

    code: str
    message: str
    hint: str = ""


def judge(seen: Seen, wanted: Wanted, now: float, remote: str = "") -> list[Fault]:
    """Returns every reason for which the proxy would refuse this peer; none where it would go on.

    ``remote`` is the IP address that answered.
    """
    if wanted.site:
        return _site(seen, wanted, remote)
    found = []
    if seen.version != VERSION:
        found.append(Fault(TlsCode.PROTOCOL_VERSION, f"it speaks {seen.version}; we speak {VERSION} alone"))
    bundles = wanted.bundles
    if wanted.peer is not None:  # an entry trusts the bundle of its peer's domain and no other
        domain = wanted.peer.trust_domain
        bundles = {domain: bundles[domain]} if domain in bundles else {}
    try:
        verify(seen.chain, bundles, role=Role.SERVER, now=now)
    except VerificationError as error:
        found.append(_fault(error))
    return found + _who(seen.chain, wanted)


def _site(seen: Seen, wanted: Wanted, remote: str) -> list[Fault]:
    found = []
    if seen.version not in SITE_VERSIONS and not wanted.unseen:
        found.append(Fault(TlsCode.PROTOCOL_VERSION, f"it speaks {seen.version}; we speak TLSv1.2 or newer"))
    if not wanted.anywhere:
        try:
            check_address(remote)
        except AddressError as error:
            found.append(_fault(error))
    pin = _pin(seen.chain)
    if wanted.pins and pin is not None and pin not in wanted.pins:
        found.append(_other_key(pin))
    return found


def _pin(chain: tuple[bytes, ...]) -> Pin | None:
    try:
        return Pin.of_certificate(Facts.of_der(chain[0]).certificate) if chain else None
    except VerificationError:
        return None


def _other_key(pin: Pin) -> Fault:
    return Fault(
        TlsCode.PEER_PIN,
        f"its key has the pin {pin}, which is not in pins",
        "add it if you know that the peer has a new key",
    )


def _who(chain: tuple[bytes, ...], wanted: Wanted) -> list[Fault]:
    """Looks at the leaf's name and key by themselves: what they say is not proven where there is another fault."""
    found = []
    try:
        leaf = Facts.of_der(chain[0]) if chain else None
        name = leaf_id(leaf) if leaf is not None else None
    except VerificationError:
        return []  # said already, by what verifies
    if leaf is None or name is None:
        return []
    if wanted.peer is not None and not wanted.peer.matches(name):
        found.append(
            Fault(
                TlsCode.PEER_NAME,
                f"it is {name}, and peer is {wanted.peer}",
                "is it the address of another agent? Otherwise correct `peer`",
            )
        )
    pin = Pin.of_certificate(leaf.certificate)
    if wanted.pins and pin not in wanted.pins:
        found.append(_other_key(pin))
    return found


def _fault(error: SidecarError) -> Fault:
    return Fault(str(error.code), str(error), error.hint)
