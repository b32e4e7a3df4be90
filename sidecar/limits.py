"""Every bound of the running proxy: a name, a default, and the answer of whoever meets it.

The names are those of the configuration's ``limits:`` section; `docs/configuration.md` says what a client sees when one
is hit. Times are seconds, sizes bytes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final

#: Counted in each process for itself: with several workers each has its part (`Limits.share`).
COUNTED: Final = (
    "connections",
    "connections_per_caller",
    "handshakes",
    "handshake_queue",
    "request_burst",
    "upstream_connections",
    "upstream_waiting",
)

#: Of a limit that may be absent. What is compared with it never exceeds it.
UNLIMITED = math.inf


@dataclass(frozen=True, slots=True)
class Limits:
    """The base limits. The defaults are meant for one agent and its callers, not for an edge."""

    #: Open downstream connections of one direction, all its listeners together; one more is closed before it costs a handshake.
    connections: int = 4096
    #: Open connections of one proven caller to all inbound listeners; one more is closed when its handshake is done.
    connections_per_caller: int = 1024
    #: TLS handshakes in flight; for one more the oldest is closed.
    handshakes: int = 256
    #: Steps of handshakes in one direction that wait for a device with our private key: refused at once.
    handshake_queue: int = 128
    #: A message head, from its first byte to the empty line: 431.
    head_bytes: int = 64 * 1024
    #: The request target: 414.
    target_bytes: int = 16 * 1024
    #: Header fields of one message: 431.
    fields: int = 128
    #: The body of a request: 413, or cut where an answer has begun.
    body_bytes: float = UNLIMITED
    #: Requests of one connection, a CONNECT aside: the answer to the last of them says that it closes.
    requests_per_connection: float = UNLIMITED
    #: Requests a second of one caller, inbound, or to one outbound entry: 429.
    request_rate: float = UNLIMITED
    #: Requests that a caller which has been silent may make at once, before ``request_rate`` holds.
    request_burst: int = 100
    #: From accept to a finished TLS handshake: closed.
    handshake_timeout: float = 10.0
    #: A signature of a device with our private key: the handshake is refused, and we are not ready.
    sign_timeout: float = 3.0
    #: From a head's first byte to its last: 408.
    head_timeout: float = 10.0
    #: A keep-alive connection between two requests: closed.
    idle_timeout: float = 60.0
    #: The window in which whoever sends a body to us, or reads what we write, must make ``min_rate`` on average.
    stall_timeout: float = 30.0
    #: Bytes a second, averaged over ``stall_timeout``: 408 or closed.
    min_rate: int = 240
    #: Dialling an upstream, TCP and TLS together: 504.
    connect_timeout: float = 5.0
    #: From the end of a request to the head of its response: 504.
    upstream_timeout: float = 60.0
    #: A pooled upstream connection that nobody uses: closed. Local servers commonly close theirs after 5 s.
    upstream_idle_timeout: float = 4.0
    #: A response body that stays silent, such as a server-sent event stream: cut.
    stream_idle_timeout: float = 3600.0
    #: From the head of a request to the end of its response: 504, or cut where an answer has begun.
    total_timeout: float = 24 * 3600.0
    #: A connection that carries requests, from accept to its end: in the last tenth answers say that it closes, then cut.
    connection_lifetime: float = 24 * 3600.0
    #: A tunnel (tcp) in which no byte moves in either direction: cut.
    tunnel_idle_timeout: float = 3600.0
    #: A tunnel (tcp), however busy: cut.
    tunnel_lifetime: float = 24 * 3600.0
    #: Connections to the upstream of one entry: a request waits, and is then 503; a tunnel is cut.
    upstream_connections: int = 1024
    #: Requests that wait for one of these, each for ``connect_timeout``: 503.
    upstream_waiting: int = 256

    def share(self, workers: int) -> Limits:
        """One worker's part: what is counted, divided by their number, rounded up, so that no part is nothing.

        A rate needs no rounding: a part of it may be less than one a second.
        """
        parts = {name: -(-getattr(self, name) // workers) for name in COUNTED}
        return replace(self, request_rate=self.request_rate / workers, **parts)
