"""nginx: its HTTP proxy, and its stream module for tunnels.

It proves callers by chain, and the peer by chain and host name, so its accepting side has the certificate with names;
neither side knows allow rules for SPIFFE IDs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from bench.certificates import CALLER, PEER
from bench.nginx import STREAM_MODULE, make_config, temporary_paths
from bench.peers.peer import Work
from bench.programs import first_line, lacking, path_of

if TYPE_CHECKING:
    from bench.site import Running, Site

#: Bodies pass through: by default nginx spools large ones to disk, which the others never do.
_HTTP: Final = """
http {
  access_log {folder}/access.log; keepalive_requests 1000000000; keepalive_timeout 600s;
  client_max_body_size 0; proxy_request_buffering off; proxy_max_temp_file_size 0; %(temporary)s
  upstream up { server 127.0.0.1:%(to)d; keepalive 64; keepalive_requests 1000000000; }
  server { %(listen)s location / {
    proxy_pass %(scheme)s://up; proxy_http_version 1.1; proxy_read_timeout 600s;
    proxy_set_header Connection ""; proxy_set_header Host $http_host; %(tls)s } }
}
"""
_STREAM: Final = """
stream {
  log_format line '$remote_addr [$time_local] $status $bytes_sent $bytes_received $session_time';
  access_log {folder}/access.log line;
  server { %(listen)s proxy_pass 127.0.0.1:%(to)d; proxy_timeout 600s; %(tls)s }
}
"""


@dataclass(frozen=True, slots=True)
class Nginx:
    """The web server of the distribution."""

    name: str = "nginx"

    def missing(self, work: Work) -> str | None:
        """Names the package that is not there."""
        if work is Work.TCP and not STREAM_MODULE.exists():
            return "nginx has no stream module: apt-get install libnginx-mod-stream"
        return lacking("nginx", package="nginx-light")

    def version(self) -> str:
        """As in ``nginx/1.22.1``, and the OpenSSL it runs with."""
        built = first_line("nginx", "-V", holding="OpenSSL").removeprefix("built with ")
        return f"{first_line('nginx', '-v').removeprefix('nginx version: ')}, {built}"

    def inbound(self, site: Site, work: Work, upstream: int) -> Running:
        """Client certificates are demanded and verified."""
        port = site.crew.port()
        files = site.certificates
        tls = (
            f"ssl_certificate {files.named}; ssl_certificate_key {files.key(PEER)}; "
            f"ssl_protocols TLSv1.3; ssl_verify_client on; ssl_client_certificate {files.authority};"
        )
        listen = f"listen 127.0.0.1:{port} ssl backlog=4096; {tls}"
        return _start(site, work, port, listen=listen, to=upstream, scheme="http", tls="")

    def outbound(self, site: Site, work: Work, inbound: int) -> Running:
        """The connections to the other side are kept, and their sessions resumed."""
        port = site.crew.port()
        files = site.certificates
        tls = (
            f"proxy_ssl_certificate {files.certificate(CALLER)}; proxy_ssl_certificate_key {files.key(CALLER)}; "
            "proxy_ssl_protocols TLSv1.3; proxy_ssl_verify on; "
            f"proxy_ssl_trusted_certificate {files.authority}; proxy_ssl_name {PEER};"
        )
        if work is Work.TCP:
            tls += " proxy_ssl on;"
        listen = f"listen 127.0.0.1:{port} backlog=4096;"
        return _start(site, work, port, listen=listen, to=inbound, scheme="https", tls=tls)


def _start(site: Site, work: Work, port: int, **parts: object) -> Running:
    if work is Work.HTTP:
        arguments = make_config(site, _HTTP % (parts | {"temporary": temporary_paths()}))
    else:
        arguments = make_config(site, _STREAM % parts, STREAM_MODULE)
    return site.proxy("nginx", port, path_of("nginx"), *arguments)
