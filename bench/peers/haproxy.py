"""HAProxy: `mode http`, and `mode tcp` for tunnels.

Both sides are proven by chain. The release of Debian 12 reads no URI names of certificates, so there is no allow rule.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from bench.certificates import CALLER, PEER
from bench.peers.peer import Work
from bench.programs import first_line, lacking, path_of

if TYPE_CHECKING:
    from bench.site import Running, Site

_CONFIG: Final = """
global
  nbthread 1
  maxconn 8000
  log stdout format raw local0 info
defaults
  mode %(mode)s
  log global
  option %(log)s
  %(delay)s
  timeout connect 5s
  timeout client 600s
  timeout server 600s
frontend in
  bind 127.0.0.1:%(port)d backlog 4096 %(listen)s
  default_backend up
backend up
  %(reuse)s
  server up 127.0.0.1:%(to)d %(tls)s
"""


@dataclass(frozen=True, slots=True)
class Haproxy:
    """The load balancer of the distribution.

    ``no_delay`` passes pieces of a body on as they come, which it does not by itself: a stream of events stutters then.
    """

    no_delay: bool = False
    name: str = "haproxy"

    def missing(self, work: Work) -> str | None:  # noqa: ARG002 - one program does both
        """Names the package that is not there."""
        return lacking("haproxy", package="haproxy")

    def version(self) -> str:
        """As in ``HAProxy version 2.6.12``, and the OpenSSL it runs with."""
        release = " ".join(first_line("haproxy", "-v").split()[:3])
        return f"{release}, {first_line('haproxy', '-vv', holding='Running on OpenSSL').rpartition(' : ')[2]}"

    def inbound(self, site: Site, work: Work, upstream: int) -> Running:
        """Client certificates are demanded and verified."""
        files = site.certificates
        tls = f"ssl crt {files.both(PEER)} ca-file {files.authority} verify required ssl-min-ver TLSv1.3"
        return self._start(site, work, listen=tls, to=upstream, tls="")

    def outbound(self, site: Site, work: Work, inbound: int) -> Running:
        """The other side's chain is verified; idle connections are shared by all clients."""
        files = site.certificates
        tls = f"ssl crt {files.both(CALLER)} ca-file {files.authority} verify required ssl-min-ver TLSv1.3"
        return self._start(site, work, listen="", to=inbound, tls=tls)

    def _start(self, site: Site, work: Work, **parts: object) -> Running:
        port = site.crew.port()
        by_work = {
            Work.HTTP: {"mode": "http", "log": "httplog", "reuse": "http-reuse always"},
            Work.TCP: {"mode": "tcp", "log": "tcplog", "reuse": ""},
        }
        delay = {"delay": "option http-no-delay" if self.no_delay else ""}
        config = site.file("haproxy.cfg", _CONFIG % (by_work[work] | delay | {"port": port} | parts))
        return site.proxy("haproxy", port, path_of("haproxy"), "-db", "-f", config)
