"""stunnel: tunnels alone. Both sides are proven by chain; it has no allow rules for SPIFFE IDs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.certificates import CALLER, PEER
from bench.peers.peer import Work
from bench.programs import first_line, lacking, path_of

if TYPE_CHECKING:
    from bench.site import Running, Site


@dataclass(frozen=True, slots=True)
class Stunnel:
    """The tunnel of the distribution: a thread for each connection."""

    name: str = "stunnel"

    def missing(self, work: Work) -> str | None:
        """Names the package that is not there."""
        if work is not Work.TCP:
            return "stunnel knows no HTTP"
        return lacking("stunnel", package="stunnel4")

    def version(self) -> str:
        """As in ``stunnel 5.68``, and the OpenSSL it runs with."""
        release = " ".join(first_line("stunnel", "-version", holding="stunnel ").split()[:2])
        return f"{release}, {first_line('stunnel', '-version', holding='OpenSSL').split('with ')[-1]}"

    def inbound(self, site: Site, work: Work, upstream: int) -> Running:  # noqa: ARG002 - it has but one
        """Client certificates are demanded and verified."""
        return _start(site, PEER, upstream, "requireCert = yes")

    def outbound(self, site: Site, work: Work, inbound: int) -> Running:  # noqa: ARG002 - it has but one
        """The other side's chain is verified."""
        return _start(site, CALLER, inbound, "client = yes")


def _start(site: Site, name: str, to: int, role: str) -> Running:
    port, files = site.crew.port(), site.certificates
    config = site.file(
        "stunnel.conf",
        f"""
foreground = yes
pid =
output = {site.crew.path("stunnel.log")}
[tunnel]
accept = 127.0.0.1:{port}
connect = 127.0.0.1:{to}
cert = {files.certificate(name)}
key = {files.key(name)}
CAfile = {files.authority}
verifyChain = yes
sslVersion = TLSv1.3
{role}
""",
    )
    return site.proxy("stunnel", port, path_of("stunnel"), config)
