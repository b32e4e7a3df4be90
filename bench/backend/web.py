"""The local server of most rows: nginx, so that it costs the least and the proxies are what is full."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from bench.errors import CouldNotRunError
from bench.load.probe import answers
from bench.nginx import make_config, temporary_paths
from bench.programs import lacking, path_of

if TYPE_CHECKING:
    from bench.site import Site

#: What `/bulk` answers, in bytes.
BULK_BYTES: Final = 16 * 1024 * 1024

#: `/upload` has to read the whole body before it answers. `return` alone would answer at once.
_CONFIG: Final = """
http {
  access_log off; keepalive_requests 1000000000; keepalive_timeout 600s; sendfile on; default_type text/plain;
  client_max_body_size 8m; client_body_buffer_size 4m; %(temporary)s
  server {
    listen 127.0.0.1:%(port)d backlog=4096;
    location / { return 200 "hello, world\\n"; }
    location = /bulk { alias %(bulk)s; }
    location = /upload {
      proxy_pass http://127.0.0.1:%(port)d/read; proxy_pass_request_body off; proxy_set_header Content-Length "";
    }
  }
}
"""


def start(site: Site) -> int:
    """Starts it and returns its port."""
    lack = lacking("nginx", package="nginx-light")
    if lack is not None:
        raise CouldNotRunError(f"the local server: {lack}")
    port, bulk = site.crew.port(), site.crew.path("bulk")
    with bulk.open("wb") as file:
        file.truncate(BULK_BYTES)
    config = _CONFIG % {"port": port, "bulk": bulk, "temporary": temporary_paths()}
    process = site.crew.start("backend", site.crew.load_core, path_of("nginx"), *make_config(site, config))
    process.until(lambda: answers(port), "answered")
    return port
