"""What ``sidecar inspect`` says of a peer: as lines for people, and as plain data."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from sidecar.cli.times import moment, span
from sidecar.config.faults import printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sidecar.inspection.described import Described
    from sidecar.inspection.judge import Fault
    from sidecar.inspection.look import Seen
    from sidecar.inspection.own import Own

#: Certificates, names of one certificate, and names of authorities that are shown.
_CERTIFICATES: Final = 10
_NAMES: Final = 10
#: Characters of a name that a peer chose.
_LONGEST: Final = 300


@dataclass(frozen=True, slots=True)
class Report:
    """All that was found. ``faults`` is None where nothing was verified; ``as_us`` is empty where our identity was not used.

    ``unseen``: the entry passes the agent's own TLS on, so that it is the agent who verifies.
    """

    address: str
    server_name: str | None
    offered: tuple[str, ...]
    seen: Seen
    chain: tuple[Described, ...]
    faults: tuple[Fault, ...] | None = None
    as_us: str = ""
    own: Own | None = None
    failed: Fault | None = None
    unseen: bool = False

    def judged(
        self, faults: Sequence[Fault], *, as_us: str = "", own: Own | None = None, failed: Fault | None = None
    ) -> Report:
        """Returns the same with what we would refuse, and what came of our own handshake."""
        return replace(self, faults=tuple(faults), as_us=as_us, own=own, failed=failed)

    @property
    def accepted(self) -> bool | None:
        """Whether we would go on with this peer, and it with us; None where nothing was verified."""
        return None if self.faults is None else not self.faults and self.failed is None


def lines_of(report: Report, now: float) -> Iterator[str]:
    """Yields what people read; ``now`` is in seconds since the epoch."""
    seen = report.seen
    yield f"{report.address} presents"
    yield f"  {seen.version}, cipher {seen.cipher}, group {_shown(seen.group or 'not known')}"
    yield f"  alpn {_shown(seen.alpn or 'none')} (offered: {' '.join(report.offered) or 'none'}), sni sent: {report.server_name or 'none'}"
    yield f"  a chain of {len(report.chain)}"
    for place, certificate in enumerate(report.chain[:_CERTIFICATES]):
        yield from _certificate(place, certificate, now)
    if len(report.chain) > _CERTIFICATES:
        yield f"    and {len(report.chain) - _CERTIFICATES} certificates more"
    yield from _client(seen)
    yield from _verdict(report)


def plain(report: Report) -> dict[str, Any]:
    """Returns the report as JSON has it."""
    seen = report.seen
    own = None
    if report.own is not None:
        own = {
            "identity": report.as_us,
            "peer": report.own.name,
            "pin": report.own.pin,
            "version": report.own.version,
            "cipher": report.own.cipher,
            "alpn": report.own.alpn,
            "resumed": report.own.resumed,
        }
    return {
        "address": report.address,
        "server_name": report.server_name,
        "version": seen.version,
        "cipher": seen.cipher,
        "group": seen.group,
        "alpn": seen.alpn,
        "chain": [asdict(certificate) for certificate in report.chain],
        "client_certificate": {
            "asked": seen.asks,
            "authorities": list(seen.authorities),
            "without": seen.verdict or None,
        },
        "accepted": report.accepted,
        "refused": None if report.faults is None else [asdict(fault) for fault in report.faults],
        "own_handshake": own,
        "own_handshake_failed": asdict(report.failed) if report.failed else None,
    }


def _certificate(place: int, found: Described, now: float) -> Iterator[str]:
    if found.unreadable:
        yield f"    {place}  {_shown(found.unreadable)} ({found.size} bytes, sha256 {found.sha256})"
        return
    names = [*found.uris, *found.dns]
    yield f"    {place}  " + (_some(names) if names else f"subject {_shown(found.subject) or 'empty'}")
    kind = "authority" if found.authority else "no authority"
    issuer = "itself" if found.self_issued else _shown(found.issuer) or "nobody named"
    yield f"       {kind}, subject {_shown(found.subject) or 'empty'}, issued by {issuer}"
    yield f"       valid {moment(found.not_before)} to {moment(found.not_after)} ({_left(found, now)})"
    yield f"       key {found.key}, pin {found.pin}"
    yield f"       serial {found.serial}, sha256 {found.sha256}"


def _left(found: Described, now: float) -> str:
    if now < found.not_before:
        return "not valid yet"
    return f"{span(found.not_after - now)} left" if now <= found.not_after else "expired"


def _client(seen: Seen) -> Iterator[str]:
    if not seen.asks:
        yield "  asks for no client certificate"
        return
    of = f" of {_some(seen.authorities)}" if seen.authorities else ", naming no authorities"
    after = {"": "goes on without one, as far as can be seen", "closed": "closes without one"}
    yield f"  asks for a client certificate{of}"
    yield f"  and {after.get(seen.verdict, f'refuses to go on without one, by the TLS alert {seen.verdict}')}"


def _verdict(report: Report) -> Iterator[str]:
    if report.faults is None:
        yield "not verified: no configuration was given (--config FILE, and --entry NAME)"
        return
    yield "we would refuse it:" if report.faults else "nothing of it would be refused"
    for fault in report.faults:
        yield from _fault(fault)
    if report.unseen:
        yield "it is the agent who does TLS and verifies (passthrough): nothing but the address is looked at here"
    if report.own is not None:
        own = report.own
        resumed = {True: "is resumed", False: "is not resumed", None: "is not one to resume"}[own.resumed]
        yield f"as {report.as_us} we reach {own.name}: {own.version}, {own.cipher}, the session {resumed}"
    if report.failed is not None:
        yield f"as {report.as_us} we do not get through:"
        yield from _fault(report.failed)


def _fault(fault: Fault) -> Iterator[str]:
    yield f"  {fault.code}: {printable(fault.message)}"
    if fault.hint:
        yield f"    {printable(fault.hint)}"


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMES} more" if len(names) > _NAMES else ""
    return "; ".join(map(_shown, names[:_NAMES])) + more


def _shown(text: str) -> str:
    return printable(text[:_LONGEST]) + ("…" if len(text) > _LONGEST else "")
