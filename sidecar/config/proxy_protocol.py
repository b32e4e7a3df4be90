"""The key ``proxy_protocol`` of an inbound entry: whether its upstream is told who the caller is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sidecar.config import kinds
from sidecar.config.faults import ConfigCode, Refused
from sidecar.config.schema import Key
from sidecar.config.values import Protocol, ProxyProtocol

if TYPE_CHECKING:
    from sidecar.config.schema import Values
    from sidecar.config.values import Forward

PROXY_PROTOCOL: Final[Key[ProxyProtocol | None]] = Key(
    "proxy_protocol",
    kinds.choice(ProxyProtocol),
    None,
    "`v2` writes a PROXY protocol header, version 2, with the caller's address and SPIFFE ID before the bytes of each "
    "connection; see [tunnels](#proxy-protocol). Absent: none. Only for `forward: tcp://`.",
)


def check(values: Values, forward: Forward) -> None:
    """Refuses the key where requests are forwarded: connections to such an upstream are shared by callers."""
    if PROXY_PROTOCOL.name in values.spots and forward.protocol is Protocol.HTTP:
        refused = Refused(
            ConfigCode.NOT_FOR_HTTP,
            "proxy_protocol is for tcp://: requests of several callers share one connection to this upstream",
            hint="remove it: requests say who calls in x-forwarded-client-cert and x-sidecar-caller",
        )
        values.refuse(PROXY_PROTOCOL, refused)
